"""Streams of JSON lines end with their readers, whether or not anything is being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from gapless.api.lines import Lines

SCOPE = {"type": "http", "asgi": {"spec_version": "2.4"}}


class Feed:
    """A first line, then nothing."""

    def __init__(self) -> None:
        self.closed = False

    async def lines(self) -> AsyncIterator[bytes]:
        try:
            yield b"{}\n"
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_a_quiet_stream_ends_when_its_reader_goes() -> None:
    feed, heard = Feed(), asyncio.Event()

    async def receive() -> Any:
        await heard.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            heard.set()

    await Lines(feed.lines())(SCOPE, receive, send)
    assert feed.closed


async def test_a_write_to_a_reader_that_has_gone_is_no_failure() -> None:
    feed = Feed()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        raise OSError("gone")

    await Lines(feed.lines())(SCOPE, receive, send)


async def test_an_end_of_its_own_is_told() -> None:
    sent = []

    async def three() -> AsyncIterator[bytes]:
        for line in (b"1\n", b"2\n", b"3\n"):
            yield line

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await Lines(three())(SCOPE, receive, send)
    assert [m["body"] for m in sent[1:]] == [b"1\n", b"2\n", b"3\n", b""]
    assert sent[-1]["more_body"] is False

"""A page's stream of changes as server-sent events: plain ASGI, because each send has a limit in time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Scope, Send

from gapless.console.hub import SEND_LIMIT_S

_log = logging.getLogger("gapless.console")

RETRY_MS = 1000
"""After which a browser connects again by itself."""
BEAT_S = 15.0
"""Something is sent at least so often: a peer that has vanished is noticed, and proxies keep the stream open."""


def event(name: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class Stream:
    """Sends `hello` first and `patch` for each change. Ends when the client does."""

    def __init__(self, hello: Mapping[str, Any], changes: AsyncIterator[Mapping[str, Any]]) -> None:
        self._hello = hello
        self._changes = changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except TimeoutError:
            _log.info("a reader of the console's stream took nothing for %g s and is dropped", SEND_LIMIT_S)
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _push(send, f"retry: {RETRY_MS}\n\n".encode() + event("hello", self._hello))
        async with aclosing(self._changes) as changes:  # type: ignore[type-var]
            await self._pass_on(changes, send)

    async def _pass_on(self, changes: AsyncIterator[Mapping[str, Any]], send: Send) -> None:
        following = asyncio.ensure_future(anext(changes))
        try:
            while True:
                await asyncio.wait({following}, timeout=BEAT_S)
                if not following.done():
                    await _push(send, b": beat\n\n")
                    continue
                await _push(send, event("patch", following.result()))
                following = asyncio.ensure_future(anext(changes))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _push(send: Send, body: bytes) -> None:
    """Raises TimeoutError for a reader that takes nothing: the connection is then closed."""
    async with asyncio.timeout(SEND_LIMIT_S):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

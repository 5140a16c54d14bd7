"""Our server inside another process's loop: TCP and Unix sockets, and an end that loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gapless.api.lines import Lines
from gapless.core.errors import ConfigError, PortTaken
from gapless.server.embedded import serving
from gapless.server.http.client_limits import ClientLimits
from gapless.server.listen.bind import Access
from gapless.service.asgi import Receive, Scope, Send, respond

PATIENCE_S = 10.0


class App:
    """Says its path; `/slow` waits for `go`, `/stuck` for its client's end."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.set()
        if scope["path"] == "/slow":
            await self.go.wait()
        if scope["path"] == "/stuck":
            while (await receive())["type"] != "http.disconnect":
                continue
            self.left.set()
            return
        await respond(send, 200, f"{scope['path']} {scope['client']}".encode(), [])


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bytes:
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.9.9.9\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_tcp_and_a_unix_socket(short_dir: Path) -> None:
    path = short_dir / "s"
    async with serving(App(), ["127.0.0.1:0", f"unix:{path}"], access=Access(mode=0o600)) as shown:
        assert shown[1] == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        reader, writer = await asyncio.open_connection("127.0.0.1", port(shown[0]))
        answer = await asked(reader, writer, "/one")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"/one ('127.0.0.1'" in answer, "nobody's word about other clients counts"
        writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        assert b"/two" in await asked(reader, writer, "/two")
        writer.close()
    assert not path.exists()


async def test_requests_under_way_end_and_the_listener_is_free_again() -> None:
    app = App()
    async with serving(app, ["127.0.0.1:0"], drain_s=PATIENCE_S) as (shown,):
        reader, writer = await asyncio.open_connection("127.0.0.1", port(shown))
        under_way = asyncio.create_task(asked(reader, writer, "/slow"))
        await asyncio.wait_for(app.begun.wait(), PATIENCE_S)
        asyncio.get_running_loop().call_later(0.05, app.go.set)
    assert b"connection: close" in await under_way
    writer.close()
    async with serving(app, [f"127.0.0.1:{port(shown)}"]) as again:
        assert again == (shown,)


async def test_who_waits_for_ever_is_told_that_it_is_over() -> None:
    app = App()
    async with serving(app, ["127.0.0.1:0"], drain_s=0.05) as (shown,):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port(shown))
        writer.write(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(app.begun.wait(), PATIENCE_S)
    assert app.left.is_set()
    writer.close()


async def test_a_stream_of_lines_ends_with_the_server_and_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b"{}\n"
        await asyncio.Event().wait()

    async with serving(Lines(lines()), ["127.0.0.1:0"], drain_s=0.05) as (shown,):
        reader, writer = await asyncio.open_connection("127.0.0.1", port(shown))
        writer.write(b"GET /lines HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"{}\n"), PATIENCE_S)).startswith(b"HTTP/1.1 200")
    assert not caplog.records
    writer.close()


async def test_limits_are_kept() -> None:
    async with serving(App(), ["127.0.0.1:0"], limits=ClientLimits(line_bytes=100)) as (shown,):
        reader, writer = await asyncio.open_connection("127.0.0.1", port(shown))
        assert (await asked(reader, writer, "/" + "x" * 200)).startswith(b"HTTP/1.1 414 ")
        writer.close()


async def test_what_cannot_be_bound_is_told() -> None:
    async with serving(App(), ["127.0.0.1:0"]) as (shown,):
        with pytest.raises(PortTaken):
            async with serving(App(), [f"127.0.0.1:{port(shown)}"]):
                pass
    with pytest.raises(ConfigError):
        async with serving(App(), ["nonsense"]):
            pass

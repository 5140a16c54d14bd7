"""Connections of a leaving worker: each gets its last answer, and the word that it was the last."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from gapless.server.connections.connections import Connections
from gapless.server.http.site import Site, nothing_to_wait_for
from gapless.server.http1.protocol import Http1


class App:
    """Answers `ok` when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.asked = asyncio.Event()
        self.told: list[str] = []

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        self.asked.set()
        if scope["path"] == "/listen":
            await receive()
            self.told.append((await receive())["type"])
            return
        await self.go.wait()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


class Talk:
    """A worker's connections, and one client."""

    def __init__(self) -> None:
        self.app = App()
        self.connections = Connections(75.0)
        loop = asyncio.get_running_loop()
        self.site = Site(self.app, loop, self.connections, nothing_to_wait_for(loop), websocket=self.websocket)
        self.websockets: list[FakeWebSocket] = []

    def websocket(self, transport: asyncio.Transport, request: bytes) -> None:
        protocol = FakeWebSocket(self.connections)
        self.websockets.append(protocol)
        protocol.connection_made(transport)
        transport.set_protocol(protocol)

    def protocol(self) -> Http1:
        return Http1(self.site)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(self.protocol, theirs)
        return await asyncio.open_connection(sock=ours)


@asynccontextmanager
async def talk() -> AsyncIterator[tuple[Talk, asyncio.StreamReader, asyncio.StreamWriter]]:
    it = Talk()
    reader, writer = await it.connect()
    try:
        yield it, reader, writer
    finally:
        writer.close()
        await writer.wait_closed()
        it.connections.tell(0.0)
        assert await it.connections.gone(5.0)


ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def answer(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(2) == b"ok"
    return head.decode()


async def test_a_kept_connection_is_told_how_long_it_may_be_idle() -> None:
    async with talk() as (_, reader, writer):
        for _ in range(2):
            writer.write(ASK)
            head = await answer(reader)
            assert "keep-alive: timeout=75" in head
            assert "connection:" not in head
            assert "date: " in head


async def test_a_client_that_wants_to_close_is_not_told_of_keep_alive() -> None:
    async with talk() as (_, reader, writer):
        writer.write(ASK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        head = await answer(reader)
        assert "connection: close" in head
        assert "keep-alive" not in head
        assert await reader.read() == b""


async def test_an_idle_connection_is_answered_once_more_and_closed() -> None:
    async with talk() as (it, reader, writer):
        writer.write(ASK)
        await answer(reader)
        it.connections.tell(60.0)
        writer.write(ASK)
        head = await answer(reader)
        assert "connection: close" in head
        assert "keep-alive" not in head
        assert await reader.read() == b""
        assert await it.connections.gone(5.0)


async def test_a_request_under_way_gets_the_word_in_its_own_answer() -> None:
    async with talk() as (it, reader, writer):
        it.app.go.clear()
        writer.write(ASK)
        await it.app.asked.wait()
        it.connections.tell(0.0)
        assert not await it.connections.gone(0.0)
        it.app.go.set()
        assert "connection: close" in await answer(reader)
        assert await it.connections.gone(5.0)


async def test_of_requests_sent_in_one_go_only_the_last_answer_says_close() -> None:
    async with talk() as (it, reader, writer):
        it.app.go.clear()
        it.connections.tell(60.0)
        writer.write(ASK * 3)
        await it.app.asked.wait()
        it.app.go.set()
        heads = [await answer(reader) for _ in range(3)]
        assert ["connection: close" in head for head in heads] == [False, False, True]
        assert await reader.read() == b""


async def test_silent_connections_are_closed_when_they_have_been_quiet_for_long_enough() -> None:
    async with talk() as (it, reader, _):
        it.connections.tell(60.0)
        assert not await it.connections.gone(0.0)
        it.connections.tell(0.0)
        assert await it.connections.gone(5.0)
        assert await reader.read() == b""


async def test_the_time_to_be_quiet_can_only_be_shortened() -> None:
    async with talk() as (it, reader, _):
        it.connections.tell(0.0)
        it.connections.tell(60.0)
        assert await it.connections.gone(5.0)
        assert await reader.read() == b""


async def test_half_a_request_counts_as_silence_when_nothing_more_comes() -> None:
    async with talk() as (it, reader, writer):
        (connection,) = it.connections.connections
        writer.write(b"GET / HTTP/1.1\r\nx-half")
        while connection.reader.between:
            await asyncio.sleep(0)
        it.connections.tell(0.0)
        assert await it.connections.gone(5.0)
        assert await reader.read() == b""


async def test_a_request_that_was_not_read_yet_is_answered_before_the_close() -> None:
    async with talk() as (it, reader, writer):
        writer.write(ASK)
        await writer.drain()
        it.connections.tell(0.0)
        gone = asyncio.ensure_future(it.connections.gone(5.0))
        assert "connection: close" in await answer(reader)
        assert await gone


async def test_a_request_that_ignores_its_clients_end_is_cancelled() -> None:
    async with talk() as (it, reader, writer):
        it.app.go.clear()
        writer.write(ASK)
        await it.app.asked.wait()
        it.connections.tell(0.0)
        assert await it.connections.cut() == 1
        assert not it.connections.tasks
        assert await it.connections.gone(5.0)
        assert await reader.read() == b""


async def test_what_is_left_at_the_deadline_is_cut_and_the_app_is_told() -> None:
    async with talk() as (it, reader, writer):
        writer.write(ASK.replace(b"GET /", b"GET /listen"))
        await it.app.asked.wait()
        it.connections.tell(0.0)
        assert not await it.connections.gone(0.0)
        assert await it.connections.cut() == 1
        assert it.app.told == ["http.disconnect"]
        assert await reader.read() == b""


class FakeWebSocket(asyncio.Protocol):
    """As uvicorn's: takes the connection over, ends at `shutdown`."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections.connections
        self.shutdowns = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)

    def shutdown(self) -> None:
        self.shutdowns += 1
        self.transport.close()


async def test_a_websocket_is_left_to_its_own_protocol_and_shut_down_once() -> None:
    async with talk() as (it, reader, writer):
        upgrade = b"\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
        second, other = await it.connect()
        for each in (other,):
            each.write(ASK.replace(b"\r\n\r\n", upgrade))
        while not it.websockets:
            await asyncio.sleep(0)
        assert len(it.connections.connections) == 2
        it.connections.tell(0.0)
        it.connections.parted()
        assert await it.connections.gone(5.0)
        assert [one.shutdowns for one in it.websockets] == [1]
        assert await second.read() == b""
        other.close()
        await other.wait_closed()
        writer.close()
        del reader

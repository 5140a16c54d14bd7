"""A server that does everything wrong on purpose: each way of losing a request is called by its name."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from gapless.core.world import RealWorld
from gapless.load import Expect, Load, LoadSpec, Record, Summary

Behaviour = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request, given how many it has seen; True: the connection stays open."""

OK = b"HTTP/1.1 200 OK\r\nx-gapless-release: 1.0\r\ncontent-length: 2\r\n\r\nok"


def abort(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Nasty:
    """Counts what it has seen, so that the client's books can be compared with the server's."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.seen = 0
        self.connections = 0
        self.writers: set[asyncio.StreamWriter] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.seen += 1
                if not await self.behaviour(self.seen, reader, writer):
                    break
        self.writers.discard(writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[tuple[Nasty, str]]:
    nasty = Nasty(behaviour)
    server = await asyncio.start_server(nasty, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield nasty, f"http://127.0.0.1:{port}/"
    finally:
        server.close()
        for writer in list(nasty.writers):
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.01)


async def run(url: str, **more: object) -> tuple[Summary, list[Record]]:
    records: list[Record] = []
    settings: dict[str, object] = {"rate": 100.0, "connections": 4, "for_s": 0.3, "timeout_s": 2.0, **more}
    summary = await Load(LoadSpec(url=url, **settings), RealWorld(), records.append).run()  # type: ignore[arg-type]
    assert summary.answered + summary.lost_total == summary.requests == len(records)
    assert summary.waiting == 0
    assert Counter(record.cause for record in records if record.cause) == summary.lost
    return summary, records


def sender(*pieces: bytes, end: Callable[[asyncio.StreamWriter], None] | None = None, keep: bool = False) -> Behaviour:
    async def behave(_seen: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)
        if end:
            end(writer)
        return keep

    return behave


async def hang(_seen: int, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(1.0)
    return False


HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
CHUNK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
WRONG = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"


@pytest.mark.parametrize(
    ("cause", "behaviour"),
    [
        ("reset", sender(end=abort)),
        ("reset", sender()),
        ("reset", sender(HALF, end=abort)),
        ("truncated", sender(HALF)),
        ("truncated", sender(CHUNK)),
        ("truncated", sender(b"HTTP/1.1 200")),
        ("timeout", hang),
        ("5xx", sender(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", keep=True)),
        ("other status", sender(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", keep=True)),
        ("wrong answer", sender(WRONG, keep=True)),
        ("wrong answer", sender(b"SSH-2.0-OpenSSH\r\n")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_each_way_of_losing_has_its_name(cause: str, behaviour: Behaviour) -> None:
    async with serving(behaviour) as (nasty, url):
        summary, records = await run(url, timeout_s=0.25, expect=Expect(body=re.compile("ok")), for_s=0.2)
    assert summary.lost == {cause: summary.requests}, {record.detail for record in records}
    assert nasty.seen <= summary.requests, "something was sent twice"


async def test_nobody_listens() -> None:
    with socket.socket() as held:  # bound but not listening: nobody else can take the port
        held.bind(("127.0.0.1", 0))
        summary, _ = await run(f"http://127.0.0.1:{held.getsockname()[1]}/")
    assert summary.lost == {"refused": 30}


async def test_good_answers_of_every_shape_keep_the_connection() -> None:
    shapes = [
        OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 204 N\r\n\r\n",
    ]

    async def behave(seen: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(shapes[seen % 3])
        return True

    async with serving(behave) as (nasty, url):
        summary, records = await run(url)
    assert summary.lost == {}
    assert nasty.seen == summary.requests == 30
    assert nasty.connections <= 4
    assert sum(not record.reused for record in records) == nasty.connections
    assert summary.by_release["1.0"].requests == 10


async def test_an_idle_connection_that_the_server_closed_is_replaced_before_anything_is_sent() -> None:
    async def behave(_seen: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK)  # promises keep-alive, and closes a moment later
        await writer.drain()
        await asyncio.sleep(0.002)
        return False

    # Seldom, so that a busy machine does not have one due in the moment between the answer and the end.
    async with serving(behave) as (nasty, url):
        summary, records = await run(url, connections=2, rate=8.0, for_s=1.25)
    assert summary.lost == {}
    assert nasty.seen == summary.requests
    assert summary.reconnects >= summary.requests - 2 - 1
    assert not any(record.reused for record in records)


async def test_words_that_nobody_asked_for_spoil_an_idle_connection_and_no_request() -> None:
    async def behave(_seen: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK)
        await asyncio.sleep(0.005)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        return True

    async with serving(behave) as (nasty, url):
        summary, _ = await run(url, connections=2, rate=50.0, for_s=0.4)
    assert summary.lost == {}
    assert nasty.connections == nasty.seen == summary.requests


async def test_a_reset_on_a_reused_connection_is_a_loss_and_is_not_retried() -> None:
    async def behave(seen: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if seen % 2:
            writer.write(OK)
            return True
        abort(writer)
        return False

    async with serving(behave) as (nasty, url):
        summary, records = await run(url, connections=1)
    assert nasty.seen == summary.requests
    assert summary.lost == {"reset": 15}
    assert all(record.reused for record in records if record.cause)


async def test_connection_close_and_bodies_to_the_end_are_good_answers() -> None:
    ends = [b"HTTP/1.1 200 OK\r\n\r\nok", b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"]

    async def behave(seen: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(ends[seen % 2])
        return False

    async with serving(behave) as (nasty, url):
        summary, _ = await run(url, expect=Expect(body=re.compile("^ok$")))
    assert summary.lost == {}
    assert nasty.connections == nasty.seen == summary.requests


async def test_a_slow_server_makes_requests_late_and_their_latency_counts_from_the_due_time() -> None:
    async def behave(_seen: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(0.05)
        writer.write(OK)
        return True

    async with serving(behave) as (_, url):
        summary, records = await run(url, connections=1, rate=100.0, for_s=0.2, timeout_s=10.0)
    assert summary.requests == 20, "an open loop does not wait for answers"
    assert summary.lost == {}
    assert summary.late >= 18
    last = max(records, key=lambda record: record.n)
    assert last.latency_s >= 0.05 * 20 - 0.2, "the queue before it belongs to its latency"


async def test_a_request_that_found_no_connection_in_time_is_lost_without_being_sent() -> None:
    async with serving(hang) as (nasty, url):
        summary, records = await run(url, connections=1, rate=2000.0, for_s=0.1, timeout_s=0.2)
    assert summary.lost == {"timeout": 200}
    assert nasty.connections <= summary.requests
    assert max(record.latency_s for record in records) >= 0.2


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_everything_at_once_adds_up(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(everything_at_once())


async def everything_at_once() -> None:
    answers: list[Behaviour] = [
        sender(OK, keep=True),
        sender(end=abort),
        sender(HALF),
        sender(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", keep=True),
        sender(WRONG, keep=True),
        hang,
    ]

    async def behave(seen: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await answers[seen % 6](seen, reader, writer)

    async with serving(behave) as (nasty, url):
        expect = Expect(body=re.compile("ok"))
        summary, _ = await run(url, connections=60, rate=200.0, for_s=0.6, timeout_s=0.5, expect=expect)
    assert nasty.seen == summary.requests == 120
    assert summary.answered == 20
    assert summary.lost == {"reset": 20, "truncated": 20, "5xx": 20, "wrong answer": 20, "timeout": 20}


async def test_a_stop_ends_early_and_waits_for_what_is_under_way() -> None:
    async def behave(_seen: int, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(0.1)
        writer.write(OK)
        return True

    stop = asyncio.Event()
    async with serving(behave) as (nasty, url):
        load = Load(LoadSpec(url=url, rate=50.0, connections=16), RealWorld())
        asyncio.get_running_loop().call_later(0.25, stop.set)
        summary = await load.run(stop)
    assert summary.waiting == 0
    assert summary.lost == {}
    assert summary.answered == nasty.seen == summary.requests
    assert 5 <= summary.requests <= 40

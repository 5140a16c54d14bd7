"""Connections that go from one worker to another: at any moment, in any pieces, and when the queue is in trouble."""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.server.connections import fate
from gapless.server.connections import queue as connection_queue
from gapless.server.connections.connections import Connections
from gapless.server.connections.give import Giver
from gapless.server.connections.queue import HTTP1, PACKET_FDS, Ends, open_queue, share, understood
from gapless.server.connections.take import Taker
from gapless.server.handover.handover import HandoverBroken
from gapless.server.http.site import Site, nothing_to_wait_for
from gapless.server.http1.protocol import Http1


@given(st.integers(1, 20_000), st.integers(1, 64))
def test_a_packet_is_small_enough_for_all_workers_to_get_some(count: int, workers: int) -> None:
    size = share(count, workers)
    assert 1 <= size <= PACKET_FDS
    assert math.ceil(count / size) >= min(count, workers)


@given(st.binary(max_size=40))
def test_what_is_no_packet_of_ours_is_not_understood(packet: bytes) -> None:
    assert not understood(packet)
    assert not understood(connection_queue.content()[:1] + packet)
    assert not understood(bytes([connection_queue.VERSION + 1]) + connection_queue.content()[1:])


def test_our_own_packets_are_understood_and_other_kinds_are_not() -> None:
    assert understood(connection_queue.content())
    assert understood(connection_queue.content(HTTP1)[:-1] + b',"later":1}')
    assert not understood(connection_queue.content("h2"))


MOMENT = st.floats(0, 1e6)
SECONDS = st.floats(0.001, 100)


@given(MOMENT, SECONDS, SECONDS, MOMENT, st.floats(0, 1))
def test_a_quiet_connection_is_closed_after_its_idle_time_and_before_the_last_call(
    told_at: float, idle_s: float, limit_s: float, quiet_at: float, turn: float
) -> None:
    order = fate.Order(told_at, idle_s, told_at + limit_s)
    at = fate.close_at(order, quiet_at, turn)
    first = fate.close_at(order, quiet_at, 0.0)
    assert first == max(told_at, quiet_at) + idle_s
    assert first <= at <= max(first, order.last_call_at)
    assert at <= first + fate.SPREAD * idle_s * 1.001
    assert order.last_call_at <= order.end_at


@given(st.integers(2, 2000))
def test_turns_are_spread_evenly_however_many_there_are(count: int) -> None:
    turns = sorted(fate.turn_of(number) for number in range(count))
    gaps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(gaps) < 3 / count
    assert turns[0] >= 0
    assert turns[-1] < 1


# Between two workers.


class Echo:
    """Answers each request with its path and who answered, after so many turns of the loop as the path says."""

    def __init__(self, name: str, order: list[str]) -> None:
        self._name = name
        self._order = order

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        body = b""
        while not scope["path"].startswith("/early"):
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        for _ in range(int(scope["query_string"] or b"0")):
            await asyncio.sleep(0)
        self._order.append(self._name)
        text = scope["path"].encode() + body
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text})


class Side:
    """One worker."""

    def __init__(self, name: str, queue: Ends, order: list[str]) -> None:
        loop = asyncio.get_running_loop()
        self.taker = Taker(queue.into, self._protocol, 1)
        self.given = 0
        self.connections = Connections(75.0, Giver(queue.out, 1, self._count, self.taker.adopt))
        self.site = Site(Echo(name, order), loop, self.connections, nothing_to_wait_for(loop))

    def _protocol(self) -> Http1:
        return Http1(self.site)

    def _count(self, number: int) -> None:
        self.given += number


REQUESTS = st.lists(
    st.tuples(st.integers(0, 4), st.binary(max_size=20), st.booleans(), st.booleans()), min_size=1, max_size=6
)  # turns to wait, body, chunked, answered before the body is read


def rendered(number: int, turns: int, body: bytes, chunked: bool, early: bool) -> bytes:
    head = b"POST /%b%d?%d HTTP/1.1\r\nhost: x\r\n" % (b"early" * early, number, turns)
    if chunked:
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return head + b"transfer-encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@given(REQUESTS, st.lists(st.integers(1, 60), max_size=20), st.integers(0, 20))
def test_a_connection_that_moves_at_any_moment_loses_no_request(
    requests: list[tuple[int, bytes, bool, bool]], cuts: list[int], leave_after: int
) -> None:
    stream = b"".join(rendered(number, *request) for number, request in enumerate(requests))
    expected = [
        b"/early%d" % number if early else b"/%d" % number + body for number, (_, body, _, early) in enumerate(requests)
    ]
    assert asyncio.run(moved(stream, cuts, leave_after, len(requests))) == expected


async def moved(stream: bytes, cuts: list[int], leave_after: int, count: int) -> list[bytes]:
    """The bodies of the answers to a stream that is sent in pieces, with the first worker leaving after so many."""
    queue, order = open_queue(), list[str]()
    old, new = Side("old", queue, order), Side("new", queue, order)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(old._protocol, theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    new.taker.start()
    leaving: asyncio.Task[bool] | None = None
    for number, at in enumerate([*cuts, len(stream)]):
        piece, stream = stream[:at], stream[at:]
        writer.write(piece)
        if number == leave_after or not stream:
            leaving = leaving or asyncio.ensure_future(leave(old))
        await asyncio.sleep(0)
    answers = [await answer(reader) for _ in range(count)]
    assert leaving
    assert await leaving
    assert old.given == 1
    assert order == sorted(order, reverse=True)  # once it has gone over, it does not come back
    writer.close()
    await writer.wait_closed()
    new.taker.stop(last=False)
    new.connections.tell(0.0)
    assert await new.connections.gone(5.0)
    connection_queue.close(queue)
    return answers


async def leave(side: Side) -> bool:
    side.connections.tell(5.0, hand_over=True)
    return await side.connections.gone(5.0)


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5.0)).lower()
    assert head.startswith(b"http/1.1 200")
    assert b"connection: close" not in head
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))


async def test_what_nobody_can_take_any_more_is_answered_here_for_the_last_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue is full, and then the whole server ends."""
    queue = open_queue()
    side = Side("old", queue, [])
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(side._protocol, theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    tried = asyncio.Event()

    def full(*_: object) -> bool:
        tried.set()
        return False

    monkeypatch.setattr(connection_queue, "send", full)
    leaving = asyncio.ensure_future(leave(side))
    await tried.wait()
    writer.write(rendered(0, 0, b"", chunked=False, early=False))
    side.connections.tell(1.0, hand_over=False)
    assert b"connection: close" in await reader.readuntil(b"\r\n\r\n")
    assert await leaving
    assert side.given == 0
    writer.close()
    await writer.wait_closed()
    connection_queue.close(queue)


# The queue itself.


def pair_in(queue: Ends) -> socket.socket:
    """Our end of a connection whose other end is in the queue."""
    ours, theirs = socket.socketpair()
    assert connection_queue.send(queue.out, [theirs.detach()])
    return ours


def test_an_empty_queue_and_one_packet() -> None:
    queue = open_queue()
    assert connection_queue.receive(queue.into) is None
    with pair_in(queue) as ours:
        fds = connection_queue.receive(queue.into)
        assert fds is not None
        with socket.socket(fileno=fds[0]) as theirs:
            assert not os.get_inheritable(theirs.fileno())
            ours.sendall(b"x")
            assert theirs.recv(1) == b"x"
    connection_queue.close(queue)


def test_a_full_queue_takes_nothing_and_leaves_what_it_was_given() -> None:
    queue = open_queue()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sent = 0
        while connection_queue.send(queue.out, [os.dup(theirs.fileno())]):
            sent += 1
            assert sent < 100_000
        os.fstat(theirs.fileno())
    connection_queue.close(queue)


def test_a_packet_that_is_not_understood_is_closed_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = open_queue()
    monkeypatch.setattr(connection_queue, "content", lambda: b"\x63{}")
    with pair_in(queue) as ours:
        ours.sendall(b"unread")
        ours.shutdown(socket.SHUT_WR)
        assert connection_queue.receive(queue.into) == []
        assert ours.recv(1) == b""
    connection_queue.close(queue)


def test_without_room_for_descriptors_a_packet_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = open_queue()
    left = [PACKET_FDS - 1]

    def scarce(fd: int, real: Callable[[int], int] = os.dup) -> int:
        if not left[0]:
            raise OSError(errno.EMFILE, "Too many open files")
        left[0] -= 1
        return real(fd)

    with pair_in(queue):
        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, "dup", scarce)
        with pytest.raises(OSError, match="Too many"):
            connection_queue.receive(queue.into)
        monkeypatch.undo()
        assert len(os.listdir("/proc/self/fd")) == before
        assert connection_queue.receive(queue.into) != []
    connection_queue.close(queue)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, None])
def test_what_is_no_end_of_a_queue_is_refused(kind: socket.SocketKind | None) -> None:
    fd = os.open(os.devnull, os.O_RDONLY) if kind is None else socket.socket(socket.AF_UNIX, kind).detach()
    with pytest.raises(HandoverBroken, match=r"queue:in"):
        connection_queue.check_end("queue:in", fd)
    os.close(fd)


async def test_an_event_stream_is_sent_away_when_it_cannot_come_back_to_one_that_leaves() -> None:
    queue, told = open_queue(), asyncio.Event()
    side = Side("old", queue, [])

    async def events(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()
        await send({"type": "http.response.body", "body": b"data: bye\n\n", "more_body": True})

    side.site = side.site._replace(app=events)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(side._protocol, theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b"data: 1\n\n")
    leaving = asyncio.ensure_future(leave(side))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not told.is_set()
    side.connections.parted()
    assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"data: bye\n\n\r\n0\r\n\r\n")
    assert await leaving
    assert side.given == 1
    writer.close()
    await writer.wait_closed()
    for fd in connection_queue.receive(queue.into) or ():
        os.close(fd)
    connection_queue.close(queue)


@pytest.mark.parametrize(
    ("request_", "end"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n\r\n0\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n\r\n"),
        (b"GET / HTTP/1.0\r\n\r\n", b"\r\n\r\n"),
    ],
)
async def test_an_event_stream_without_an_event_ends_in_order(request_: bytes, end: bytes) -> None:
    """Of a connection that leaves with its worker; over HTTP/1.0 its end is the connection's."""
    begun = asyncio.Event()

    async def events(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    loop = asyncio.get_running_loop()
    connections = Connections(5.0)
    site = Site(events, loop, connections, nothing_to_wait_for(loop))
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    await loop.connect_accepted_socket(lambda: Http1(site), theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(request_)
    await begun.wait()
    connections.tell(0.01)
    connections.parted()
    assert await connections.gone(10.0)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(end)
    assert answer.count(b"\r\n\r\n") == 1 + end.count(b"0")
    writer.close()
    await writer.wait_closed()

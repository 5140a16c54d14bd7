"""An HTTP/1.1 connection without a socket: bytes in, what the app saw and what was answered out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gapless.server.connections.connections import Connections
from gapless.server.http.site import Site, nothing_to_wait_for
from gapless.server.http1.protocol import Http1

PEER = ("127.0.0.1", 50_000)


class Wire(asyncio.Transport):
    """Remembers what was written. Closing is told to the protocol on the loop's next turn, as real transports do."""

    def __init__(self, peer: Any = PEER) -> None:
        super().__init__({"peername": peer, "sockname": ("127.0.0.1", 8000)})
        self.out = b""
        self.writes = 0
        self.eof = self.closing = self.aborted = self.paused = False
        self.unsent = 0
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: Any) -> None:
        assert not self.eof, "wrote after the end"
        if not self.closing:
            self.writes += 1
            self.out += data

    def writelines(self, pieces: Iterable[Any]) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.unsent:
                self._lost()

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = self.closing = True
            self._lost()

    def _lost(self) -> None:
        assert self.protocol
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Seen(NamedTuple):
    """A request as the app saw it, or its end without a whole body (`complete` False)."""

    method: str
    path: str
    query: bytes
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    complete: bool


@dataclass
class Echo:
    """An app that remembers requests and answers each with its number."""

    seen: list[Seen] = field(default_factory=list)
    scopes: list[Any] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        body, more, complete = b"", True, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                more = complete = False
            else:
                body, more = body + message["body"], message["more_body"]
        where = (scope["path"], scope["query_string"], scope["http_version"], tuple(scope["headers"]))
        self.seen.append(Seen(scope["method"], *where, body, complete))
        if complete:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-n", b"%d" % len(self.seen))]})
            await send({"type": "http.response.body", "body": b"ok"})


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Talk:
    """What came of it."""

    wire: Wire
    protocol: Http1
    app: Any

    @property
    def answers(self) -> list[Answer]:
        return parse(self.wire.out)

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def ended(self) -> bool:
        return self.wire.closing or self.wire.eof


def site(app: Any, **options: Any) -> Site:
    loop = asyncio.get_running_loop()
    return Site(app, loop, Connections(75.0), nothing_to_wait_for(loop), **options)


def connect(app: Any, peer: Any = PEER, **options: Any) -> Talk:
    wire, protocol = Wire(peer), Http1(site(app, **options))
    wire.protocol = protocol
    protocol.connection_made(wire)
    return Talk(wire, protocol, app)


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def say(segments: Sequence[bytes], app: Any = None, **options: Any) -> Talk:
    """Everything that a client says, on one connection, which is lost afterwards."""
    talk = connect(app or Echo(), **options)
    for segment in segments:
        while talk.wire.paused and not talk.wire.closing:
            await asyncio.sleep(0)
        if not talk.wire.closing:
            talk.protocol.data_received(segment)
    while talk.protocol.busy and talk.protocol.site.connections.tasks and not talk.protocol.reader.incoming:
        await asyncio.sleep(0)
    await turns()
    talk.wire.close()
    await turns()
    return talk


def parse(data: bytes) -> list[Answer]:
    """Answers with a length or in chunks, one after the other; interim ones and the bodiless, too."""
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        status = int(first.split(" ")[1])
        if headers.get("transfer-encoding") == "chunked":
            body, data = dechunk(data)
        else:
            length = int(headers.get("content-length", "0"))
            body, data = data[:length], data[length:]
        answers.append(Answer(status, headers, body))
    return answers


def dechunk(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        body, data = body + data[:count], data[count + 2 :]
        if not count:
            return body, data

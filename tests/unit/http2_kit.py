"""An HTTP/2 connection in memory: our protocol on one side, hand-made frames on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from gapless.server.connections.connections import Connections
from gapless.server.http.client_limits import ClientLimits
from gapless.server.http.site import Site, nothing_to_wait_for
from gapless.server.http2.protocol import Http2
from gapless.server.http2.scan import PREFACE

LIMITS = ClientLimits()
Fields = list[tuple[bytes, bytes]]
GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/")]
POST: Fields = [(b":method", b"POST"), *GET[1:]]


class Pipe(asyncio.Transport):
    """A transport whose peer is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = False
        self.closing = False
        self.aborted = False
        self.protocol: Any = None
        self.unsent = 0

    def write(self, data: Any) -> None:
        assert not self.ended
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Client:
    """`frames` are those that the server has sent so far."""

    def __init__(self, app: Any, limits: ClientLimits, streams: int) -> None:
        self.connections = Connections(75.0)
        loop = asyncio.get_running_loop()
        site = Site(
            app, loop, self.connections, nothing_to_wait_for(loop), limits=limits, probes=frozenset({"/readyz"})
        )
        self.protocol = Http2(site, streams)
        self.pipe = Pipe()
        self.pipe.protocol = self.protocol
        self.encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._read = 0
        self.frames: list[Frame] = []

    async def say(self, *pieces: bytes | Frame) -> None:
        """Send, and let the server do what follows from it."""
        data = b"".join(piece if isinstance(piece, bytes) else piece.serialize() for piece in pieces)
        self.protocol.data_received(data)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)
        self._parse()

    async def until(self, true: Callable[[], bool]) -> None:
        """For what the server does by its clock. Raises TimeoutError."""
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.01)  # the server has nothing to wait for
                await self.settle()

    def _parse(self) -> None:
        while len(self.pipe.written) - self._read >= 9:
            frame, length = Frame.parse_frame_header(memoryview(bytes(self.pipe.written[self._read : self._read + 9])))
            frame.parse_body(memoryview(bytes(self.pipe.written[self._read + 9 : self._read + 9 + length])))
            self._read += 9 + length
            if isinstance(frame, HeadersFrame):
                frame.fields = self._decoder.decode(frame.data, raw=True)
            self.frames.append(frame)

    def headers(self, number: int, fields: Fields = GET, *flags: str) -> bytes:
        """HEADERS with END_HEADERS and what `flags` adds."""
        return headers(number, self.encoder.encode(fields), "END_HEADERS", *flags)

    def get(self, number: int, fields: Fields = GET) -> bytes:
        return self.headers(number, fields, "END_STREAM")

    def of(self, kind: type[Frame], number: int | None = None) -> list[Any]:
        return [one for one in self.frames if isinstance(one, kind) and number in (None, one.stream_id)]

    def status(self, number: int) -> str:
        """The final response's, "" without one."""
        fields = [dict(one.fields) for one in self.of(HeadersFrame, number)]
        return next((f[b":status"].decode() for f in fields if not f.get(b":status", b"1").startswith(b"1")), "")

    def body(self, number: int) -> bytes:
        return b"".join(one.data for one in self.of(DataFrame, number))

    def ended(self, number: int) -> bool:
        return any("END_STREAM" in one.flags for one in self.frames if one.stream_id == number)

    def outcome(self, number: int = 1) -> str:
        """In a word: what became of the connection, else of a stream."""
        for goaway in self.of(GoAwayFrame):
            if goaway.error_code:
                return f"goaway {goaway.error_code}"
        for reset in self.of(RstStreamFrame, number):
            if reset.error_code:
                return f"rst {reset.error_code}"
        return self.status(number) if self.ended(number) else "open"


@asynccontextmanager
async def client(
    app: Any, limits: ClientLimits = LIMITS, *, greet: bool = True, streams: int = 100
) -> AsyncIterator[Client]:
    """A connection, after the preface and both sides' SETTINGS."""
    made = Client(app, limits, streams)
    made.protocol.connection_made(made.pipe)
    try:
        if greet:
            await made.say(PREFACE, SettingsFrame(0), SettingsFrame(0, flags=["ACK"]))
        yield made
    finally:
        made.pipe.close()
        for task in list(made.connections.tasks):
            task.cancel()
        await made.settle()


def headers(number: int, block: bytes, *flags: str) -> bytes:
    frame = HeadersFrame(number, block, flags=list(flags))
    return bytes(frame.serialize())


def continuation(number: int, block: bytes, *flags: str) -> bytes:
    return bytes(ContinuationFrame(number, block, flags=list(flags)).serialize())


def data(number: int, body: bytes = b"", *flags: str) -> bytes:
    return bytes(DataFrame(number, body, flags=list(flags)).serialize())


def settings(values: dict[int, int]) -> bytes:
    return bytes(SettingsFrame(0, values).serialize())


def window(number: int, increment: int) -> bytes:
    return bytes(WindowUpdateFrame(number, increment).serialize())


def ping(opaque: bytes = b"12345678", *flags: str) -> bytes:
    return bytes(PingFrame(0, opaque, flags=list(flags)).serialize())


def rst(number: int, code: int = 8) -> bytes:
    return bytes(RstStreamFrame(number, code).serialize())


def raw(kind: int, number: int, body: bytes = b"", flags: int = 0, length: int | None = None) -> bytes:
    """Any frame at all."""
    size = len(body) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + body


# Apps.


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body to its end; answers what it was asked."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await answer(send, b"%b %b" % (scope["method"].encode(), body))


async def deaf(scope: Any, receive: Any, send: Any) -> None:
    """Answers never, until its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        continue


async def idle(scope: Any, receive: Any, send: Any) -> None:
    """Does not even read."""
    await asyncio.Event().wait()


async def answer(send: Any, body: bytes, status: int = 200, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
    fields = [(b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})

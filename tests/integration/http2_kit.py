"""A client of HTTP/2 that honours GOAWAY as RFC 9113 §6.8 says: it repeats what was not processed, and only that.

On hpack and hyperframe alone, so that it shares no states with the server's library.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, NamedTuple

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = 2**24
REFUSED = 7


class NotProcessed(Exception):
    """The request may be sent again."""


class Lost(Exception):
    """Nobody knows what became of the request."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class _Stream:
    def __init__(self) -> None:
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""

    def finish(self) -> None:
        named = {name.decode(): value.decode() for name, value in self.fields}
        if not self.done.done():
            self.done.set_result(Answer(int(named[":status"]), named, self.body))

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Connection(asyncio.Protocol):
    """`goaways`: the last streams that the server named, in order."""

    def __init__(self, scheme: str = "http") -> None:
        self.goaways: list[int] = []
        self.codes: list[int] = []
        self.closed = asyncio.Event()
        self._scheme = scheme
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._data = b""

    @property
    def usable(self) -> bool:
        return not self.goaways and not self.closed.is_set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        grown = WindowUpdateFrame(0)
        grown.window_increment = WINDOW
        transport.write(PREFACE + SettingsFrame(0, {4: WINDOW}).serialize() + grown.serialize())

    async def request(self, path: str, body: bytes | None = None, method: str = "") -> Answer:
        """Raises NotProcessed, Lost."""
        if not self.usable:
            raise NotProcessed
        number, self._next = self._next, self._next + 2
        stream = self._streams[number] = _Stream()
        fields = [(":method", method or ("GET" if body is None else "POST")), (":scheme", self._scheme)]
        block = self._encoder.encode([*fields, (":authority", "x"), (":path", path)])
        flags = ["END_HEADERS"] + (["END_STREAM"] if body is None else [])
        self.transport.write(HeadersFrame(number, block, flags=flags).serialize())
        if body is not None:
            self.transport.write(DataFrame(number, body, flags=["END_STREAM"]).serialize())
        try:
            return await stream.done
        finally:
            self._streams.pop(number, None)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._data[:9]))
            if len(self._data) < 9 + length:
                return
            frame.parse_body(memoryview(self._data[9 : 9 + length]))
            self._data = self._data[9 + length :]
            self._on(frame)

    def _on(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream_id)
        match frame:
            case GoAwayFrame():
                self._on_goaway(frame)
            case SettingsFrame() | PingFrame():
                self._acknowledge(frame)
            case HeadersFrame():
                fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(frame.data, raw=True)]
                if stream:
                    stream.fields += fields
            case DataFrame():
                self._on_body(frame)
            case RstStreamFrame() if stream:
                stream.fail(NotProcessed() if frame.error_code == REFUSED else Lost(f"reset {frame.error_code}"))
        if "END_STREAM" in frame.flags and stream:
            stream.finish()

    def _acknowledge(self, frame: SettingsFrame | PingFrame) -> None:
        if "ACK" not in frame.flags:
            given = [frame.opaque_data] if isinstance(frame, PingFrame) else []
            self.transport.write(type(frame)(0, *given, flags=["ACK"]).serialize())

    def _on_body(self, frame: DataFrame) -> None:
        if frame.stream_id in self._streams:
            self._streams[frame.stream_id].body += frame.data
        if frame.data:
            for number in (0, frame.stream_id):
                more = WindowUpdateFrame(number)
                more.window_increment = len(frame.data)
                self.transport.write(more.serialize())

    def _on_goaway(self, frame: GoAwayFrame) -> None:
        self.goaways.append(frame.last_stream_id)
        self.codes.append(frame.error_code)
        for number, stream in list(self._streams.items()):
            if number > frame.last_stream_id:
                stream.fail(NotProcessed())
        if len(self.goaways) > 1 and not self._streams:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        last = self.goaways[-1] if self.goaways else 2**31
        for number, stream in list(self._streams.items()):
            stream.fail(NotProcessed() if number > last else Lost(f"closed: {exc}, GOAWAYs {self.goaways}"))


async def connect(port: int, tls: ssl.SSLContext | None = None) -> Connection:
    loop = asyncio.get_running_loop()
    scheme = "https" if tls else "http"
    named = {"server_hostname": "localhost"} if tls else {}
    return (await loop.create_connection(lambda: Connection(scheme), "127.0.0.1", port, ssl=tls, **named))[1]


class Client:
    """Requests on one connection after another. `connections`: how many there were."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.connections: list[Connection] = []
        self.lost: list[str] = []
        self.answered: list[Answer] = []
        self._port, self._tls = port, tls
        self._connecting = asyncio.Lock()

    async def get(self, path: str) -> None:
        for _ in range(10):
            try:
                self.answered.append(await (await self._connection()).request(path))
                return
            except NotProcessed:
                continue
            except (Lost, OSError) as error:
                self.lost.append(f"{type(error).__name__}: {error}")
                return
        self.lost.append("ten times not processed")

    async def _connection(self) -> Connection:
        async with self._connecting:
            if not self.connections or not self.connections[-1].usable:
                self.connections.append(await connect(self._port, self._tls))
            return self.connections[-1]

    async def steadily(self, path: str, rate: float, stop: asyncio.Event) -> None:
        """Open loop: one request each 1/rate s, whatever became of the others."""
        under_way: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            task = asyncio.ensure_future(self.get(path))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(1 / rate)
        if under_way:
            await asyncio.wait(under_way)

    def close(self) -> None:
        for connection in self.connections:
            connection.transport.close()

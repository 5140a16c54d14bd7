"""What an HTTP/2 connection sends: frames gathered to few writes, bodies as far as the client's windows reach."""

from __future__ import annotations

import asyncio
import logging

from h2.errors import ErrorCodes

from gapless.server.connections.kernel import untaken
from gapless.server.http.client_limits import BODY_RATE
from gapless.server.http2.fields import Field
from gapless.server.http2.scan import Scan
from gapless.server.http2.stream import Stream
from gapless.server.http2.wire import LAST_GOAWAY, Wire, is_goaway

_log = logging.getLogger("gapless.server")

GATHER = 65_536
"""Bytes that are gathered before they are written within one turn of the loop; also the greatest frame that we send."""
TURN = 4 * GATHER
"""Bytes that one response may write before the loop gets its turn."""
MAX_UNSENT = 1_048_576
"""A client that does not read makes our answers to its own frames pile up: more than this ends it."""


class Sender:
    def __init__(self, transport: asyncio.Transport, wire: Wire, scan: Scan) -> None:
        self.paused_at = 0.0
        """Since when the client reads too slowly; 0 while it does not."""
        self._transport = transport
        self._wire = wire
        self._scan = scan
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Stream] = {}
        self._untaken = 0
        self._gathered = 0
        self._scheduled = False
        self._ended = False

    @property
    def stalled(self) -> Stream | None:
        """The stream that has been waiting longest to send."""
        return next(iter(self._waiting.values()), None)

    def pause(self) -> None:
        self.paused_at = self._loop.time()
        self._untaken = untaken(self._transport)

    def standing_at(self, limit_s: float) -> float:
        """Since when the client has taken too little (BODY_RATE); 0 while there is room to write."""
        now = self._loop.time()
        if self.paused_at and now - self.paused_at >= limit_s:
            before, self._untaken = self._untaken, untaken(self._transport)
            if before - self._untaken >= limit_s * BODY_RATE:
                self.paused_at = now
        return self.paused_at

    def resume(self) -> None:
        self.paused_at = 0.0
        self.wake()

    def wake(self) -> None:
        """The connection's window has opened."""
        for stream in list(self._waiting.values()):
            stream.wake()

    def wake_one(self, number: int) -> None:
        """A stream's window has opened. While the connection's is closed it keeps its place among the others."""
        if number in self._waiting and self._room(number) > 0:
            self._waiting[number].wake()

    def fields(self, number: int, fields: list[Field], *, end: bool) -> None:
        self._wire.send_headers(number, fields, end_stream=end)
        self.flush_soon()

    async def body(self, stream: Stream, body: bytes, *, end: bool) -> None:
        """Returns when all of it was given away, or the stream is gone."""
        at, turn = 0, TURN
        while not stream.gone:
            room = min(self._room(stream.number), self._wire.max_outbound_frame_size, GATHER, len(body) - at)
            if room <= 0 and body:
                await self._wait(stream)
                continue
            at += room
            self._data(stream.number, body[at - room : at], end and at == len(body))
            if at == len(body):
                return
            if at >= turn:
                turn += TURN
                await asyncio.sleep(0)

    def end_of(self, number: int) -> None:
        """No more of this body: that needs no window."""
        self._waiting.pop(number, None)
        self._wire.end_stream(number)
        self.flush_soon()

    def _data(self, number: int, data: bytes, end: bool) -> None:
        self._waiting.pop(number, None)
        self._wire.send_data(number, data, end_stream=end)
        self._scan.sent()
        self._gathered += len(data)
        if self._gathered >= GATHER:
            self.flush()
        else:
            self.flush_soon()

    def _room(self, number: int) -> int:
        return 0 if self.paused_at else self._wire.local_flow_control_window(number)

    async def _wait(self, stream: Stream) -> None:
        """Until the client opened a window or took what was written. Who waits keeps its place until it was served;
        who was served goes behind."""
        if stream.number not in self._waiting:
            self._waiting[stream.number] = stream
            stream.waits_since = self._loop.time()
        stream.room = self._loop.create_future()
        try:
            await stream.room
        except BaseException:
            self._waiting.pop(stream.number, None)
            raise
        if stream.gone:
            self._waiting.pop(stream.number, None)

    def reset(self, number: int, code: ErrorCodes) -> None:
        stream = self._wire.streams.get(number)
        if stream is not None and not stream.closed:
            self._wire.reset_stream(number, code)
            self.flush_soon()

    def ping(self, data: bytes) -> None:
        self._wire.ping(data)
        self.flush_soon()

    def took(self, number: int, size: int) -> None:
        """The app has read so much: the client may send as much again."""
        if not self._ended:
            self._wire.acknowledge_received_data(size, number)
            self.flush_soon()

    def flush_soon(self) -> None:
        """Once in this turn of the loop: the frames of all streams in one write."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        self._gathered = 0
        self.write(self._wire.data_to_send())

    def own(self, frame: bytes) -> None:
        """A frame that h2 has not made, after all that it has made by now."""
        self.flush()
        self.write(frame)

    def fail(self, frame: bytes) -> None:
        """The same in the place of the GOAWAY that h2 has made of a wrong frame."""
        made = self._wire.data_to_send()
        self.write(made[:-LAST_GOAWAY] if is_goaway(made[-LAST_GOAWAY:]) else made)
        self.write(frame)

    def write(self, data: bytes) -> None:
        if not data or self._ended or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            _log.warning("a client of HTTP/2 does not read what it asked for: its connection is cut")
            self._transport.abort()

    def end(self) -> None:
        """No more after what was made by now."""
        self.flush()
        self._ended = True
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

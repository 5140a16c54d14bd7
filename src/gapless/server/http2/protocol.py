"""HTTP/2 for ASGI apps, on the h2 library (RFC 9113). One instance is one connection; `stream.py` is one request.

It ends in the two phases of RFC 9113 §6.8: a GOAWAY that takes nothing back, and after a round trip another one that
names the last request that is answered. No client that honours it loses a request or has to guess.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from gapless.server.connections.kernel import unread
from gapless.server.http.client_limits import RETRY_AFTER_S
from gapless.server.http.site import Site
from gapless.server.http2.alarm import Alarm
from gapless.server.http2.due import NEVER, Act, Phase, Times, due
from gapless.server.http2.fields import Field, Malformed, Request, read_request, read_trailers, refusal_of
from gapless.server.http2.scan import Abuse, Scan
from gapless.server.http2.sender import Sender
from gapless.server.http2.stream import Stream, scope_of, scope_of_connection
from gapless.server.http2.wire import ANY_STREAM, code_of, goaway, open_wire

_log = logging.getLogger("gapless.server")

RETIRE_PING = b"retiring"
SILENCE_PING = b"anybody?"
STREAMS = 100
"""At once on one connection; RFC 9113 §6.5.2 recommends no fewer."""
FIELDS = 2**20
"""Bytes of a header list where no limit was asked for: the protocol needs one."""
RUNNING_PER_STREAM = 10
"""An app may go on after its response, and after its client gave up; so many times the streams allowed at once."""


class Http2(asyncio.Protocol):
    """Implements `Live`, and `Link` for its streams."""

    transport: asyncio.Transport
    movable = False

    def __init__(self, site: Site, streams: int = STREAMS) -> None:
        self.quiet_at = 0.0
        self._site = site
        self._connections = site.connections
        self._limits = site.limits
        self._most = streams
        self._shared: dict[str, Any] = {}
        self._streams: dict[int, Stream] = {}
        self._running = 0
        self._phase = Phase.OPEN
        self._phase_at = 0.0
        self._last = ANY_STREAM
        self._client_leaves = False
        self._head_at = 0.0
        self._heard_at = 0.0
        self._pinged_at = 0.0
        self._reactions: dict[type, Callable[[Any], None]] = {
            events.RequestReceived: self._on_request,
            events.DataReceived: self._on_data,
            events.TrailersReceived: self._on_trailers,
            events.StreamEnded: self._on_ended,
            events.StreamReset: self._on_reset,
            events.WindowUpdated: self._on_window,
            events.RemoteSettingsChanged: self._on_settings,
            events.PingAckReceived: self._on_pong,
        }
        self._acts: dict[Act, Callable[[], None]] = {
            Act.RETIRE: self.retire,
            Act.SAY_LAST: self._say_last,
            Act.ASK: self._ask,
            Act.TOO_SLOW: self._too_slow,
            Act.DROP_STALLED: self._drop_stalled,
            Act.DROP_LATE: self._drop_late,
            Act.CLOSE: lambda: self.transport.close(),
            Act.ABORT: lambda: self.transport.abort(),
        }

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()
        self._shared = scope_of_connection(self.transport)
        client = self._shared["client"]
        self._trusted = self._site.trust.trusts(client and client[0])
        fields = self._limits.header_bytes or FIELDS
        self.quiet_at = self._heard_at = self._head_at = self._loop.time()
        self._scan = Scan(2 * fields, self.quiet_at)
        self._wire = open_wire(self._most, fields)
        self._sender = Sender(self.transport, self._wire, self._scan)
        self._alarm = Alarm(self._due, lambda act: self._acts[act]())
        self._sender.flush_soon()
        self._connections.made(self)
        self._surplus = 0 < self._limits.connections < len(self._connections.connections)
        self._alarm.arm()

    def data_received(self, data: bytes) -> None:
        self._heard_at = now = self._loop.time()
        if self._phase is Phase.CLOSING:
            return
        self.quiet_at = now
        try:
            for frame in self._scan.feed(bytes(data), now):
                for event in self._wire.receive_data(frame):
                    reaction = self._reactions.get(type(event))
                    if reaction is not None:
                        reaction(event)
        except Abuse as abuse:
            self._fail(abuse.code, str(abuse))
        except ProtocolError as error:
            self._fail(code_of(error), str(error))
        self._after_data(now)

    def _after_data(self, now: float) -> None:
        self._sender.flush_soon()
        if not self._scan.in_head:
            self._head_at = 0.0
        elif not self._head_at:
            self._head_at = now
            self._alarm.arm()
        if self._scan.leaving and not self._client_leaves:
            self._client_leaves = True
            self._rest()

    def eof_received(self) -> bool:
        """A client that only says that it sends no more still gets its responses (TLS cannot do that)."""
        self._client_leaves = True
        return bool(self._streams) and self._phase is not Phase.CLOSING and self.transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self.disconnect()
        self._streams.clear()
        self._alarm.stop()
        self._connections.lost(self)

    def pause_writing(self) -> None:
        self._sender.pause()
        self._alarm.arm()

    def resume_writing(self) -> None:
        self._sender.resume()

    # What frames mean.

    def _on_request(self, event: events.RequestReceived) -> None:
        number, ended = event.stream_id, event.stream_ended is not None
        if number > self._last or self._full():
            self._sender.reset(number, ErrorCodes.REFUSED_STREAM)
            return
        try:
            request = read_request(event.headers)
            if ended and request.length > 0:
                raise Malformed("content-length without a body")
        except Malformed as error:
            _log.debug("malformed request on stream %d: %s", number, error)
            self._sender.reset(number, ErrorCodes.PROTOCOL_ERROR)
            return
        refusal = refusal_of(request, event.headers, self._limits)
        if not refusal and self._surplus and request.raw_path.decode() not in self._site.probes:
            refusal = 503
        if refusal:
            self._answer(number, refusal, ended=ended)
        else:
            self._begin(number, request, ended)

    def _full(self) -> bool:
        return len(self._streams) >= self._most or self._running >= RUNNING_PER_STREAM * self._most

    def _begin(self, number: int, request: Request, ended: bool) -> None:
        scope = scope_of(request, self._shared)
        if self._trusted:
            self._site.trust.apply(scope, dict(request.fields))
        stream = Stream(self, number, request, scope, ended)
        self._streams[number] = stream
        self._running += 1
        stream.began = self._loop.time()
        task = stream.task = self._loop.create_task(stream.run(self._site.app))
        tasks = self._connections.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _on_data(self, event: events.DataReceived) -> None:
        number, size = event.stream_id, event.flow_controlled_length or 0
        stream = self._streams.get(number)
        if stream is None:
            self.took(number, size)  # it was answered before its body came
        elif stream.arrived(event.data or b"", size) > (self._limits.body_bytes or float("inf")):
            self._refuse(stream, 413, ErrorCodes.CANCEL)

    def _on_trailers(self, event: events.TrailersReceived) -> None:
        """ASGI has no place for a request's trailers; they must be right all the same."""
        try:
            read_trailers(event.headers)
        except Malformed as error:
            _log.debug("malformed trailers on stream %d: %s", event.stream_id, error)
            self._sender.reset(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            self._drop(event.stream_id)

    def _on_ended(self, event: events.StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.end()

    def _on_reset(self, event: events.StreamReset) -> None:
        self._drop(event.stream_id)

    def _on_window(self, event: events.WindowUpdated) -> None:
        if event.stream_id:
            self._sender.wake_one(event.stream_id)
        else:
            self._sender.wake()

    def _on_settings(self, event: events.RemoteSettingsChanged) -> None:
        self._sender.wake()

    def _on_pong(self, event: events.PingAckReceived) -> None:
        if event.ping_data == RETIRE_PING and self._phase is Phase.TOLD:
            self._say_last()

    def _drop(self, number: int) -> None:
        """Nobody wants the response any more."""
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.disconnect()
            self._rest()

    def _refuse(self, stream: Stream, status: int, code: ErrorCodes) -> None:
        """Answer in the app's place, if it has not begun to; it is told that its client has gone."""
        if stream.unanswered and not stream.gone:
            self._answer(stream.number, status, ended=stream.ended)
        else:
            self._sender.reset(stream.number, code)
        self._drop(stream.number)

    def _answer(self, number: int, status: int, *, ended: bool) -> None:
        fields = [(b":status", b"%d" % status), (b"content-length", b"0"), *self.default_fields]
        if status == 503:
            fields.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        self.send_fields(number, fields, end=True)
        if self._site.access is not None:
            self._site.access.refused(self._shared["client"], status, f"HTTP/2, stream {number}")
        if not ended:
            self._sender.reset(number, ErrorCodes.NO_ERROR)

    # What streams ask for.

    @property
    def default_fields(self) -> Iterable[Field]:
        return self._connections.closing_headers  # without those that only HTTP/1.1 has

    def send_fields(self, number: int, fields: list[Field], *, end: bool) -> None:
        self._sender.fields(number, fields, end=end)

    async def send_body(self, stream: Stream, body: bytes, *, end: bool) -> None:
        await self._sender.body(stream, body, end=end)

    def took(self, number: int, size: int) -> None:
        self._sender.took(number, size)

    def asks(self, stream: Stream) -> None:
        self._alarm.arm_for(stream.late_at(self._limits))

    def completed(self, stream: Stream) -> None:
        self._scan.answered()
        self._connections.total_requests += 1
        self.quiet_at = self._loop.time()
        if self._site.access is not None:
            self._site.access.note(stream, self.quiet_at)
        if self._streams.pop(stream.number, None) is None:
            return
        if not stream.ended:
            self._sender.reset(stream.number, ErrorCodes.NO_ERROR)  # the rest of the request's body is not wanted
        self._rest()

    def left(self, stream: Stream) -> None:
        self._running -= 1
        if stream.number in self._streams:
            self._refuse(stream, 500, ErrorCodes.INTERNAL_ERROR)

    # The end: what `Live` promises.

    @property
    def busy(self) -> bool:
        return bool(self._streams)

    @property
    def streaming(self) -> bool:
        return any(stream.events for stream in self._streams.values())

    def end_stream(self) -> None:
        for stream in list(self._streams.values()):
            if stream.events:
                stream.end_events()

    def send_end(self, number: int) -> None:
        self._sender.end_of(number)

    def retire(self) -> None:
        """The first GOAWAY takes nothing back; its PING tells when all that crossed it has arrived."""
        if self._phase is Phase.OPEN:
            self._enter(Phase.TOLD)
            self._sender.own(goaway(ANY_STREAM))
            self._sender.ping(RETIRE_PING)

    def _say_last(self) -> None:
        self._last = self._wire.highest_inbound_stream_id
        self._enter(Phase.LAST)
        self._sender.own(goaway(self._last))
        self._rest()

    def _rest(self) -> None:
        """To be called when there may be nothing left to do."""
        if self._streams:
            return
        if self._phase is Phase.LAST or self._client_leaves:
            self._finish()
        else:
            self._connections.rested(self)

    def close_silent(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if self.busy or self.transport.is_closing() or (sock is not None and unread(sock.fileno())):
            return
        if self._phase < Phase.LAST:
            self._say_last()
        self._finish()

    def disconnect(self) -> None:
        for stream in list(self._streams.values()):
            stream.disconnect()

    def detach(self) -> int | None:
        """The state of an HTTP/2 connection cannot be handed to another process."""
        return None

    def _fail(self, code: ErrorCodes, why: str) -> None:
        """The client broke the rules."""
        _log.info("ending an HTTP/2 connection: %s (%s)", why, code.name)
        self.disconnect()
        self._streams.clear()
        self._sender.fail(goaway(self._wire.highest_inbound_stream_id, code, why))
        self._finish()

    def _finish(self) -> None:
        """All is said: close so that it arrives."""
        if self._phase is not Phase.CLOSING:
            self._sender.end()
            self._enter(Phase.CLOSING)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._phase_at = self._loop.time()
        self._alarm.arm()

    # Time.

    def _due(self) -> tuple[float, Act]:
        stalled = self._sender.stalled
        return due(
            Times(
                phase=self._phase,
                phase_at=self._phase_at,
                keep_alive_s=self._connections.keep_alive_s,
                head_s=self._limits.header_s,
                busy=self.busy,
                quiet_at=self.quiet_at,
                heard_at=self._heard_at,
                pinged_at=self._pinged_at,
                head_at=self._head_at,
                paused_at=self._sender.standing_at(self._limits.send_s),
                send_s=self._limits.send_s,
                stalled_at=stalled.waits_since if stalled else 0.0,
                body_at=min((one.late_at(self._limits) for one in self._streams.values()), default=NEVER),
                closed=self.transport.is_closing(),
            )
        )

    def _ask(self) -> None:
        self._pinged_at = self._loop.time()
        self._sender.ping(SILENCE_PING)

    def _too_slow(self) -> None:
        self._fail(ErrorCodes.ENHANCE_YOUR_CALM, "a header block did not arrive in time")

    def _drop_stalled(self) -> None:
        if (stalled := self._sender.stalled) is not None:
            self._sender.reset(stalled.number, ErrorCodes.CANCEL)
            self._drop(stalled.number)

    def _drop_late(self) -> None:
        for stream in list(self._streams.values()):
            if stream.late_at(self._limits) <= self._loop.time():
                self._refuse(stream, 408, ErrorCodes.CANCEL)

"""One HTTP/2 connection in clear text (prior knowledge): a request at a time, as the other one, and as strict: a stream
that the server refuses, or leaves out of its GOAWAY, is a lost request, although clients may send such ones again."""

from __future__ import annotations

import asyncio
from typing import cast

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from gapless.load.cause import Answer, Cause, Loss, ended

Headers = list[tuple[str, str]]
WINDOW = 1 << 24
"""So wide that the server never waits for us."""


_OPEN, _GOAWAY = ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY
_LENIENT = {**H2ConnectionStateMachine._transitions, (_OPEN, _GOAWAY): (None, _OPEN)}  # noqa: SLF001
"""h2 takes a GOAWAY for the end, and fails on the answers that may still come after it (RFC 9113, 6.8)."""


class Connection2(asyncio.Protocol):
    """Several connections, not several streams, are what differs
    between clients that share and those that do not."""

    def __init__(self, kept_bytes: int) -> None:
        """Of an answer's body so much is kept."""
        self._kept_bytes = kept_bytes
        self._transport: asyncio.Transport | None = None
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.state_machine._transitions = _LENIENT  # noqa: SLF001 - see there
        self._waiter: asyncio.Future[Answer | Loss] | None = None
        self._stream = 0
        self._answer = Answer(status=0)
        self._going = False
        self._gone: asyncio.Future[None] | None = None

    async def ask(self, headers: Headers, body: bytes) -> Answer | Loss:
        """Send and wait for the whole answer. Cancelling it leaves the connection unusable."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return Loss(Cause.RESET, "closed before the request was sent")
        self._answer = Answer(status=0)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            self._stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(self._stream, headers, end_stream=not body)
            if body:
                self._h2.send_data(self._stream, body, end_stream=True)
            self._flush()
            return await self._waiter
        except ProtocolError as error:
            self._going = True
            return Loss(Cause.RESET, f"cannot be sent: {error}")
        except asyncio.CancelledError:
            self._going = True
            raise
        finally:
            self._waiter = None

    def usable(self) -> bool:
        """Whether another request may be sent: not once the server has said GOAWAY."""
        return self._transport is not None and not self._transport.is_closing() and not self._going

    async def close(self) -> None:
        """Returns once the socket is closed."""
        if self._transport is not None:
            self._transport.abort()
        if self._gone is not None:
            await self._gone

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, but not the class
        self._gone = asyncio.get_running_loop().create_future()
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as error:
            self._going = True
            self._finish(Loss(Cause.WRONG, f"not HTTP/2: {error}"))
            return
        for event in events:
            self._happened(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._going = True
        self._finish(ended(exc, begun=bool(self._answer.status)))
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def _happened(self, event: Event) -> None:
        match event:
            case ConnectionTerminated():
                self._going = True
                if (event.last_stream_id or 0) < self._stream:
                    self._finish(Loss(Cause.RESET, "left out of the server's GOAWAY"))
            case StreamReset() if event.stream_id == self._stream:
                self._finish(Loss(Cause.RESET, f"the stream was reset: {event.error_code}"))
            case ResponseReceived() if event.stream_id == self._stream:
                found = dict(cast("Headers", event.headers))
                release = found.get("x-gapless-release", "")
                self._answer = Answer(status=int(found[":status"]), release=release)
            case DataReceived() if event.stream_id == self._stream:
                self._received(event)
            case StreamEnded() if event.stream_id == self._stream:
                self._finish(self._answer)

    def _received(self, event: DataReceived) -> None:
        if event.flow_controlled_length:
            self._h2.acknowledge_received_data(event.flow_controlled_length, self._stream)
        kept = (self._answer.body + event.data)[: self._kept_bytes]
        self._answer = Answer(status=self._answer.status, release=self._answer.release, body=kept)

    def _flush(self) -> None:
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)

    def _finish(self, outcome: Answer | Loss) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(outcome)

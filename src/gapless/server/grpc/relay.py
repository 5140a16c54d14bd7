"""A client's connection to a gRPC server that cannot be given connections, only a place to listen on: bytes are passed
on both ways, as they are.

grpcio's own way to listen and to stop loses calls: with SO_REUSEPORT, what the kernel has queued for a listener that is
closed is reset; and `Server.stop` cancels the calls that cross its GOAWAY on the way (docs/decisions/0016). Here the
listener is the one that all generations share, and the GOAWAY is ours: put in between two frames, with a PING behind
it. A client that has answered the PING begins nothing more, and when its last stream has ended it is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from gapless.server.connections.connections import Connections
from gapless.server.connections.kernel import unread
from gapless.server.grpc.frames import (
    ACK,
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE_BYTES,
    RST_STREAM,
    Frames,
    goaway,
    ping,
)

Dial = Callable[[asyncio.BaseProtocol, str], Awaitable[object]]
"""Connects a protocol to the server, under the name of the client's address."""

_log = logging.getLogger("gapless.server")

OURS = b"gap-less"
"""What our PING carries, so that its answer is known from those to the server's own."""
YOUNG_S = 0.2
"""A connection that has just been made is sent away behind its first call, or when none has come for so long."""


class _Word(Enum):
    """Of the GOAWAY."""

    UNSAID = auto()
    DUE = auto()
    SAID = auto()
    UNDERSTOOD = auto()


class Relay(asyncio.Protocol):
    """Implements `connections.Live`."""

    transport: asyncio.Transport
    movable = False
    streaming = False

    def __init__(self, connections: Connections, dial: Dial) -> None:
        self._connections = connections
        self._dial = dial
        self._loop = asyncio.get_running_loop()
        self._asked, self._answered = Frames(PREFACE_BYTES), Frames()
        self._server: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._streams: set[int] = set()
        self._highest = 0
        self._word = _Word.UNSAID
        self._made_at = self.quiet_at = self._loop.time()

    @property
    def busy(self) -> bool:
        return bool(self._streams)

    # The client's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._connections.made(self)
        joining = self._loop.create_task(self._join())
        joining.add_done_callback(self._joined)

    async def _join(self) -> None:
        await self._dial(_ServerSide(self), _named(self.transport.get_extra_info("peername")))

    def _joined(self, joining: asyncio.Task[None]) -> None:
        """A server that cannot be reached is one that has ended: so does the connection."""
        if joining.cancelled() or (error := joining.exception()) is None:
            return
        _log.warning("a connection ends, because the gRPC server cannot be reached: %s", error)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.quiet_at = self._loop.time()
        for kind, flags, stream, opaque in self._asked.feed(data):
            if kind == HEADERS and stream > self._highest:
                self._highest = stream
                self._streams.add(stream)
            elif kind == RST_STREAM:
                self._streams.discard(stream)
            elif kind == PING and flags & ACK and opaque == OURS:
                self._word = _Word.UNDERSTOOD
        if self._server is None:
            self._early.append(data)
        elif not self._server.is_closing():
            self._server.write(data)
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.lost(self)
        if self._server is not None:
            self._server.close()

    def pause_writing(self) -> None:
        if self._server is not None and not self._server.is_closing():
            self._server.pause_reading()

    def resume_writing(self) -> None:
        if self._server is not None and not self._server.is_closing():
            self._server.resume_reading()

    # The server's side.

    def joined(self, server: asyncio.Transport) -> None:
        if self.transport.is_closing():
            server.close()
            return
        self._server = server
        server.writelines(self._early)
        self._early.clear()

    def answered(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.quiet_at = self._loop.time()
        if self._may_go and (gap := self._answered.gap(data)) >= 0:
            self._pass_on(data[:gap])
            self._say()
            data = data[gap:]
        self._pass_on(data)
        self._go_on()

    def _pass_on(self, data: bytes) -> None:
        ended = False
        for kind, flags, stream, _ in self._answered.feed(data):
            if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
                self._streams.discard(stream)
                ended = True
        self.transport.write(data)
        if ended and not self._streams:
            self._connections.rested(self)

    # Its end.

    def end_stream(self) -> None:
        """There is none: see `streaming`."""

    def retire(self) -> None:
        if self._word is _Word.UNSAID:
            self._word = _Word.DUE
            wait_s = self._made_at + YOUNG_S - self._loop.time()
            if not self._highest and wait_s > 0:
                self._loop.call_later(wait_s, self._go_on)
            self._go_on()

    @property
    def _may_go(self) -> bool:
        grown = self._highest or self._loop.time() >= self._made_at + YOUNG_S
        return self._word is _Word.DUE and bool(grown)

    def _go_on(self) -> None:
        """Say it when it may be said; close when all is said and done."""
        if self.transport.is_closing():
            return
        if self._may_go and self._answered.between:
            self._say()
        if self._word is _Word.UNDERSTOOD and not self._streams:
            self.transport.close()

    def _say(self) -> None:
        self._word = _Word.SAID
        self.transport.write(goaway() + ping(OURS))

    def close_silent(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and not (sock is not None and unread(sock.fileno())):
            self.transport.close()

    def disconnect(self) -> None:
        """The server tells its handlers by itself."""

    def detach(self) -> int | None:
        return None


class _ServerSide(asyncio.Protocol):
    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._relay.joined(transport)

    def data_received(self, data: bytes) -> None:
        self._relay.answered(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.transport.close()

    def pause_writing(self) -> None:
        if not self._relay.transport.is_closing():
            self._relay.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._relay.transport.is_closing():
            self._relay.transport.resume_reading()


def _named(peer: object) -> str:
    """As gRPC writes addresses."""
    if not isinstance(peer, tuple):
        return "unix:"
    host, port = peer[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

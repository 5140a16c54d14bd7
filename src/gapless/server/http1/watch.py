"""What an unfinished message on a connection may take, in time and in bytes, and the one timer that sees to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gapless.server.connections.kernel import untaken
from gapless.server.http.client_limits import BODY_RATE, body_due
from gapless.server.http1.cycle import Cycle
from gapless.server.http1.request import Headers, Refused, size

if TYPE_CHECKING:
    from gapless.server.http1.protocol import Http1

KEEP_ALIVE_MARGIN_S = 2.0
"""A client is told a shorter idle time than it gets: its last request must not cross our close on the way."""
LINGER_S = 2.0
"""How long an ended connection is still read: closing it on bytes that are unread would take our answer with it."""
AGAIN_S = 1.0
"""When an idle connection turns out to hold bytes that were not read yet."""
CHUNK_SLACK_BYTES, CHUNK_SLACK_FACTOR = 65_536, 12
"""How much framing a chunked body may bring: chunks of one byte need five bytes, and extensions are of no use."""
DISCARD_BYTES = 262_144
"""Of a body that nobody wants any more; above it the connection is ended rather than read on."""
NEVER = float("inf")


class Watch:
    """Lazy: when the timer fires, it looks which limit holds by then; only a nearer limit arms it
    anew. Requests that come and go in time cost nothing."""

    __slots__ = (
        "_at",
        "_body_at",
        "_conn",
        "_fed",
        "_handle",
        "_head_at",
        "_linger_at",
        "_paused_at",
        "_standing_at",
        "_unsent",
    )

    def __init__(self, conn: Http1) -> None:
        self._conn = conn
        self._handle: asyncio.TimerHandle | None = None
        self._at = NEVER
        self._head_at = self._body_at = self._paused_at = 0.0
        self._linger_at = self._standing_at = NEVER
        self._fed = self._unsent = 0

    def begin(self) -> None:
        """Of a connection."""
        self._arm(self._due(self._conn.quiet_at))

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def linger(self) -> None:
        self._linger_at = self._conn.loop.time() + LINGER_S
        self._arm(self._linger_at)

    def choked(self) -> None:
        """The client takes what we send more slowly than it comes."""
        self._unsent = untaken(self._conn.transport)
        self._standing_at = self._conn.loop.time()
        self._sooner(self._standing_at)

    @property
    def split(self) -> bool:
        """The head came in several pieces."""
        return self._head_at > 0

    def message(self) -> None:
        """A request begins."""
        self._head_at = self._body_at = 0.0

    def paused(self, paused: bool) -> None:
        """What we do not read is not late."""
        now = self._conn.loop.time()
        if paused:
            self._paused_at = now
            return
        waited, self._paused_at = now - self._paused_at, 0.0
        self._head_at += waited if self._head_at else 0.0
        self._body_at += waited if self._body_at else 0.0

    def head(self, target: bytes, headers: Headers, fed: int) -> None:
        """A head is incomplete after so many more bytes. Raises Refused."""
        limits, now = self._conn.site.limits, self._conn.loop.time()
        if not self._head_at:
            self._head_at = now
            self._fed = len(target) + size(headers)
        else:
            self._fed += fed
        if 0 < limits.line_bytes < len(target):
            raise Refused(414, "a target without end")
        if 0 < limits.header_bytes < self._fed - limits.line_bytes:
            raise Refused(431, "header fields without end")
        self._sooner(now)

    def body(self, cycle: Cycle, fed: int) -> None:
        """The same of a body. Raises Refused."""
        now = self._conn.loop.time()
        if not self._body_at:
            self._body_at, self._fed = now, 0
        else:
            self._fed += fed
        if self._fed > cycle.received * CHUNK_SLACK_FACTOR + CHUNK_SLACK_BYTES:
            raise Refused(400, "more framing than body")
        if cycle.discarded > DISCARD_BYTES:
            raise Refused(413, "more of a body that nobody wants")
        self._sooner(now)

    def _sooner(self, now: float) -> None:
        due = self._due(now)
        if due < self._at:
            self._arm(due)

    def _due(self, now: float) -> float:
        """When the present state of the connection will have lasted too long."""
        return min(self._standing_at + (self._conn.site.limits.send_s or NEVER), self._of_receiving(now))

    def _of_receiving(self, now: float) -> float:
        conn, limits = self._conn, self._conn.site.limits
        if self._linger_at < NEVER:
            return self._linger_at
        if self._paused_at:
            return NEVER
        if (cycle := conn.reader.incoming) is not None:
            waits = cycle.expects and not cycle.received
            return NEVER if waits or not self._body_at else body_due(limits, self._body_at, cycle.received)
        if not conn.reader.between:
            return (self._head_at or now) + limits.header_s if limits.header_s else NEVER
        return NEVER if conn.busy else conn.quiet_at + conn.site.connections.keep_alive_s + KEEP_ALIVE_MARGIN_S

    def _arm(self, at: float) -> None:
        self.stop()
        loop = self._conn.loop
        self._at = min(at, loop.time() + self._conn.site.connections.keep_alive_s + KEEP_ALIVE_MARGIN_S)
        self._handle = loop.call_at(self._at, self._look)

    def _look(self) -> None:
        conn, now = self._conn, self._conn.loop.time()
        if self._stands(now):
            conn.cut()
        elif (due := self._due(now)) > now or conn.transport.is_closing():
            self._arm(due)
        elif self._linger_at < NEVER:
            conn.transport.close()
            self._arm(now + AGAIN_S)
        elif conn.reader.between and conn.reader.incoming is None:
            conn.close_silent()
            self._arm(now + AGAIN_S)
        else:
            what = "head" if conn.reader.incoming is None else "body"
            conn.wrong(Refused(408, f"the {what} of a request took too long"))

    def _stands(self, now: float) -> bool:
        """The client has left what we send standing for too long. It is looked at while there is too much of it, and
        once nothing else is waited for."""
        conn, limit_s = self._conn, self._conn.site.limits.send_s
        if not (conn.choked or conn.transport.is_closing()):
            self._standing_at = NEVER
            return False
        before, unsent = self._unsent, untaken(conn.transport)
        if now < self._standing_at + limit_s < NEVER:
            return False
        first = self._standing_at == NEVER
        self._standing_at, self._unsent = now, unsent
        return not first and limit_s > 0 and before - unsent < limit_s * BODY_RATE

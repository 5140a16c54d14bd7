"""One HTTP/1.1 connection: bytes to requests, answered in order, and what happens when they are no requests.

Made for few steps per request: no timer (`watch`), no event, one write (`cycle`); the app starts when all
bytes that have come are read, so that a short body is there before it is asked for. Reading stops while a client's body
or its pipelined requests wait for the app.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from typing import Any

from gapless.server.connections.kernel import reset, unread
from gapless.server.http.client_limits import BODY_RATE, RETRY_AFTER_S
from gapless.server.http.preface import PREFACE, is_preface
from gapless.server.http.site import Site
from gapless.server.http1.cycle import BEGUN, DONE, Cycle
from gapless.server.http1.reader import Reader
from gapless.server.http1.request import Refused
from gapless.server.http1.response import whole
from gapless.server.http1.watch import Watch
from gapless.server.tls.certificates import extension

_log = logging.getLogger("gapless.server")

HIGH_WATER_BYTES = 65_536
"""Of a body that the app has not asked for; above it the client is left to wait."""


class Http1(asyncio.Protocol):
    """Implements `Live`."""

    __slots__ = (
        "__weakref__",
        "_admitted",
        "_fatal",
        "_fresh",
        "_held",
        "_paused",
        "_queue",
        "_retired",
        "_waiters",
        "_watch",
        "choked",
        "client",
        "cycle",
        "deaf",
        "extensions",
        "loop",
        "peer_trusted",
        "quiet_at",
        "reader",
        "scheme",
        "server",
        "site",
        "surplus",
        "transport",
    )

    def __init__(self, site: Site, admitted: bool = False) -> None:
        """`admitted`: another worker has let it in, so it is not one too many here."""
        self.site = site
        self._admitted = admitted
        self.loop = site.loop
        self.quiet_at = 0.0
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # until there is a connection
        self.choked = False
        """The client takes our bytes more slowly than they come."""
        self.cycle: Cycle | None = None
        """What is being answered."""
        self._queue: deque[Cycle] | tuple[()] = ()
        """Those that came before their turn. Few connections ever need a deque, which takes 620 bytes."""
        self._fresh: Cycle | None = None
        self._held: bytes | None = b"" if site.http2 else None
        """The first bytes, until they tell HTTP/1.1 from HTTP/2."""
        self._fatal: Refused | None = None
        self.deaf = False
        """What the client says from now on is nobody's request."""
        self._paused = False
        self._retired = False
        self._waiters: list[asyncio.Future[None]] = []
        self._watch = Watch(self)
        self.reader = Reader(self, self._watch)

    # Live.

    @property
    def movable(self) -> bool:
        return self.scheme != "https"

    @property
    def busy(self) -> bool:
        """A request has been received whose response is not complete."""
        return self.cycle is not None

    @property
    def streaming(self) -> bool:
        return self.cycle is not None and self.cycle.events

    def end_stream(self) -> None:
        if self.cycle is not None:
            self.cycle.end_events()

    def retire(self) -> None:
        self._retired = True

    def close_silent(self) -> None:
        """Close it, unless a request has arrived that was only not read yet."""
        sock = self.transport.get_extra_info("socket")
        if self.transport.is_closing() or (sock is not None and not self.deaf and unread(sock.fileno())):
            return
        self.transport.close()

    def cut(self) -> None:
        """The client does not take what it asked for. Nothing that could be said would arrive."""
        _log.info("cut a client that took less than %d bytes a second of its response", BODY_RATE)
        reset(self.transport)

    def disconnect(self) -> None:
        """Tell the application that its client has gone."""
        if self.cycle is not None:
            self.cycle.lose()

    def detach(self) -> int | None:
        transport = self.transport
        reader = self.reader
        if self.cycle is not None or reader.incoming is not None or not reader.between or self.deaf or self._held:
            return None
        if not self.movable or transport.is_closing() or transport.get_write_buffer_size():
            return None
        transport.pause_reading()
        fd = os.dup(transport.get_extra_info("socket").fileno())
        transport.abort()  # closes our descriptor of a socket that lives on: nothing is sent
        return fd

    # The transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        connections = self.site.connections
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        tls = extension(transport) if self.scheme == "https" else None
        self.extensions = {"tls": tls} if tls else {}
        self.client = address(transport.get_extra_info("peername"))
        self.server = address(transport.get_extra_info("sockname"))
        self.peer_trusted = self.site.trust.trusts(self.client and self.client[0])
        self.quiet_at = self.loop.time()
        connections.made(self)
        self.surplus = not self._admitted and 0 < self.site.limits.connections < len(connections.connections)
        self._watch.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self.deaf = True
        self._watch.stop()
        if self.cycle is not None:
            self.cycle.lose()
            if self.site.access is not None:
                self.site.access.unfinished(self.cycle, self.loop.time())
        self._queue = ()
        self.resume_writing()
        self.reader.close()
        self.site.connections.lost(self)

    def pause_writing(self) -> None:
        self.choked = True
        self._watch.choked()

    def resume_writing(self) -> None:
        self.choked = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def drained(self) -> None:
        """Returns when there is room to write, or nobody to write to."""
        waiter = self.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        if self._held is not None and not (data := self._after_preface(data)):
            return
        try:
            self.reader.feed(data)
        except Refused as refused:
            self.wrong(refused)
        fresh, self._fresh = self._fresh, None
        if fresh is not None:
            self._start(fresh)
        if self._queue or not self.reader.between:
            self.quiet_at = self.loop.time()
            self.pace()

    def _after_preface(self, data: bytes) -> bytes:
        """The first bytes, once they are known to be HTTP/1.1."""
        self._held = data = (self._held or b"") + data
        if not is_preface(data) or self.site.http2 is None:
            self._held = None
            return data
        if len(data) >= len(PREFACE):
            other, transport = self.site.http2(), self.transport
            transport.set_protocol(other)
            other.connection_made(transport)
            self.leave()
            self.reader.close()
            other.data_received(data)
        return b""

    # What the reader says.

    def arrived(self, cycle: Cycle) -> None:
        if self.cycle is None:
            self.cycle = self._fresh = cycle
        else:
            self._queue = self._queue or deque()
            self._queue.append(cycle)

    def completed(self, cycle: Cycle) -> None:
        if cycle.waiters:
            cycle.wake()
        if not cycle.keep_alive:
            self.deaf = True
        if cycle.stage == DONE:
            self._rest()

    def leave(self) -> None:
        """Another protocol goes on with the transport."""
        self.deaf = True
        self._watch.stop()
        self.site.connections.lost(self)

    # Requests, one after the other.

    def _start(self, cycle: Cycle) -> None:
        if self.site.access is not None:
            cycle.began = self.loop.time()
        cycle.task = self.loop.create_task(cycle.run())
        self.site.connections.tasks.add(cycle.task)

    def answered(self, cycle: Cycle) -> None:
        """Its response is complete."""
        self.quiet_at = self.loop.time()
        self.cycle = None
        if cycle.waiters:
            cycle.wake()
        if self.site.access is not None:
            self.site.access.note(cycle, self.quiet_at)
        if not cycle.keep_alive:
            self._end(clean=self.reader.incoming is None)
        elif cycle is self.reader.incoming:
            cycle.discard()
            self.pace()
        else:
            self._rest()

    def _rest(self) -> None:
        """A request and its response are over: the next, the last word, or nothing for now."""
        if self.cycle is not None or self.transport.is_closing():
            return
        if self._queue:
            self.cycle = self._queue.popleft()
            self._start(self.cycle)
            self.pace()
        elif self._fatal is not None:
            self._refuse(self._fatal)
        else:
            if self._paused:
                self.pace()
            if self.reader.between:
                self.site.connections.rested(self)

    def tail(self, cycle: Cycle, keep: bool, dated: bool) -> bytes:
        """The last lines of a response's head. Here it is settled whether the connection is kept. Of several requests
        that a client sent in one go, only the last gets the word, so that all are answered."""
        if cycle.expects and not cycle.complete:
            keep = False  # nobody can know whether the body still comes
        if keep and self._retired and not self._queue:
            keep = False
        cycle.keep_alive = keep
        return self.site.connections.tail(keep, cycle.old, dated)

    def pace(self) -> None:
        """Read on, or let the client wait."""
        full = bool(self._queue) or (
            self.reader.incoming is not None and self.reader.incoming.buffered > HIGH_WATER_BYTES
        )
        if full == self._paused or self.deaf or self.transport.is_closing():
            return
        self._paused = full
        self._watch.paused(full)
        if full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # What is wrong.

    def wrong(self, refused: Refused) -> None:
        """The bytes are no request, or none that is answered; nothing that follows can be trusted."""
        if self.deaf:
            return  # it came after the last request
        self.deaf = True
        self._fatal = refused
        cycle, self.reader.incoming = self.reader.incoming, None
        if cycle is not None:
            self._abandon(cycle)
        if self.cycle is None and self._fatal is not None:
            self._refuse(refused)

    def _abandon(self, cycle: Cycle) -> None:
        """This request's body is wrong, so that the app will not answer it."""
        if cycle.stage == DONE:
            self._fatal = None
            self._end(clean=False)
        elif cycle is not self.cycle:
            self._queue = deque(one for one in self._queue if one is not cycle)
        else:
            self.cycle = self._fresh = None
            cycle.lose()
            if cycle.stage == BEGUN:
                self._fatal = None
                reset(self.transport)  # the client must not take half an answer for a whole one

    def _refuse(self, refused: Refused) -> None:
        if self.transport.is_closing():
            return
        _log.debug("answered %d: %s", refused.status, refused)
        extra = b"\r\nretry-after: %d" % RETRY_AFTER_S if refused.status == 503 else b""
        self.transport.write(whole(refused.status, self.site.connections.tail(False, False, False), extra))
        if self.site.access is not None:
            self.site.access.refused(self.client, refused.status, str(refused))
        self._end(clean=False)

    def broken(self, cycle: Cycle) -> None:
        """The app has not answered as it should: 500, or a visible end of what it began."""
        if cycle.stage < BEGUN:
            cycle.status, cycle.stage = 500, DONE
            self.transport.write(whole(500, self.tail(cycle, cycle.keep_alive, dated=False)))
            self.answered(cycle)
        elif cycle.left is None and not cycle.chunked:
            reset(self.transport)  # its body would end where the connection ends
        else:
            self.transport.close()

    def _end(self, *, clean: bool) -> None:
        """No more answers. Unless the client has said all (`clean`), it is listened to for a while."""
        self.deaf = True
        self._queue = ()
        if clean or not self.transport.can_write_eof():
            self.transport.close()
            return
        if self._paused:
            self.transport.resume_reading()
        self.transport.write_eof()
        self._watch.linger()


def address(name: Any) -> tuple[str, int | None] | None:
    """ASGI's form of a socket's name: host and port, or a Unix socket's path; None when it has none."""
    if isinstance(name, tuple):
        return (str(name[0]), int(name[1]))
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return (name, None) if name else None

"""One request on an HTTP/1.1 connection, and its response: what an ASGI app sees of it.

As ASGI asks, nothing is sent before the first piece of the body: head and body leave in one write, an app that fails
before gets its 500 out, and a body that comes in one piece needs no chunks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from gapless.server.http.client_gone import ClientGone, caused_by_the_client
from gapless.server.http1.response import BODYLESS, BadResponse, Head, head_of
from gapless.service.asgi import Message, Scope

if TYPE_CHECKING:
    from gapless.server.http1.protocol import Http1

_log = logging.getLogger("gapless.server")

AWAITED, HEADED, BEGUN, DONE = range(4)
"""Stages of a response: nothing yet, its start is known, its head was written, all of it was."""
EXPECTED = ("http.response.start", "http.response.body", "http.response.body", "nothing: the response is complete")
JOIN_BYTES = 32_768
"""Below it copying the pieces into one is cheaper than handing several to the kernel."""
EVENTS = b"text/event-stream"
LAST_WORD_S = 0.5
"""What the app of an event stream gets to say a last word when the server leaves, and once more to return."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Cycle:
    __slots__ = (
        "began",
        "buffered",
        "chunked",
        "complete",
        "conn",
        "discarded",
        "ending",
        "expects",
        "gone",
        "head",
        "keep_alive",
        "left",
        "mute",
        "old",
        "pieces",
        "received",
        "request_id",
        "scope",
        "sent",
        "stage",
        "status",
        "task",
        "told",
        "waiters",
    )

    task: asyncio.Task[None]
    head: Head
    left: int | None
    """Bytes of the body that are still to come, when its length is known."""

    def __init__(self, conn: Http1, scope: Scope, keep_alive: bool, old: bool, expects: bool) -> None:
        self.conn = conn
        self.scope = scope
        self.keep_alive = keep_alive
        self.old = old
        """HTTP/1.0."""
        self.expects = expects and not old
        """The client waits for `100 Continue` before it sends its body."""
        self.pieces: list[bytes] | None = None
        self.buffered = 0
        self.received = 0
        self.discarded = 0
        self.complete = False
        """The whole request is here."""
        self.told = False
        """The app has been given all of it."""
        self.gone = False
        self.stage = AWAITED
        self.status = 0
        self.sent = 0
        self.began = 0.0
        self.request_id = ""
        self.chunked = False
        self.mute = False
        """No body belongs to this response, whatever the app sends."""
        self.waiters: list[asyncio.Future[None]] | None = None
        self.ending = False
        """Its app was told that the server leaves."""

    async def run(self) -> None:
        """The app's answer; whatever the app does, there is one."""
        try:
            await self.conn.site.app(self.scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 - the app's failures end here, whatever they are
            self._failed(error)
        else:
            if self.ending:
                self._end()
            elif self.stage != DONE and not self.gone:
                _log.error("the app returned from %s without %s", self, EXPECTED[self.stage])
                self.conn.broken(self)
        self.conn.site.connections.tasks.discard(self.task)

    # What came in.

    def add(self, piece: bytes) -> None:
        self.received += len(piece)
        if self.stage == DONE:
            self.discarded += len(piece)
            return
        if self.pieces is None:
            self.pieces = [piece]
        else:
            self.pieces.append(piece)
        self.buffered += len(piece)
        if self.waiters:
            self.wake()

    def discard(self) -> None:
        """The rest of the body is of no use: the response is complete."""
        self.pieces = None
        self.buffered = 0

    def lose(self) -> None:
        """The client has gone, as far as the app is concerned."""
        self.gone = True
        self.wake()

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def receive(self) -> Message:
        """ASGI's. After the body it waits until the client has gone or the response is complete."""
        if self.expects:
            self._invite()
        while not self.gone and self.stage != DONE and not self.ending:
            if not self.told and (self.pieces or self.complete):
                return self._take()
            await self._change()
        return {"type": "http.disconnect"}

    def _invite(self) -> None:
        self.expects = False
        if self.stage < BEGUN and not self.complete and not self.gone and not self.pieces:
            self.conn.transport.write(CONTINUE)

    def _take(self) -> Message:
        pieces, self.pieces = self.pieces, None
        self.told = self.complete
        body = b"" if pieces is None else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self.buffered:
            self.buffered = 0
            self.conn.pace()
        return {"type": "http.request", "body": body, "more_body": not self.told}

    def tell(self, waiter: asyncio.Future[Any]) -> None:
        """`service.asgi.Presence`."""
        # Whoever was woken by something else comes again with a new one.
        self.waiters = [*(one for one in self.waiters or () if not one.done()), waiter]

    async def _change(self) -> None:
        waiter = self.conn.loop.create_future()
        self.tell(waiter)
        await waiter

    # What goes out.

    def send(self, message: Message) -> Awaitable[None]:
        """ASGI's. Everything that can be done now is done at once; what is awaited is room in the write buffer."""
        if self.gone:
            raise ClientGone("the client has gone")
        kind = message["type"]
        if kind == "http.response.body" and HEADED <= self.stage <= BEGUN:
            return self._body(message.get("body", b""), message.get("more_body", False))
        if kind != "http.response.start" or self.stage != AWAITED:
            raise BadResponse(f"the app sent {kind!r} where the server expects {EXPECTED[self.stage]}")
        self.status = message["status"]
        self.head = head_of(self.status, message.get("headers", ()))
        self.stage = HEADED
        if self.conn.site.access is not None:
            given = dict(message.get("headers", ())).get(b"x-request-id", b"")
            self.request_id = given.decode("latin-1")
        return self.conn.site.sent

    def _body(self, body: bytes, more: bool) -> Awaitable[None]:
        conn = self.conn
        if self.stage == BEGUN:
            if self.left is not None:
                self._check_length(self.left, len(body), more)
            parts: tuple[bytes, ...] = ()
        else:
            parts = self._begin(self.head, len(body), more)
            self.stage = BEGUN
        if self.left is not None:
            self.left -= len(body)
        if self.chunked:
            parts += chunk(body, more)
        elif body and not self.mute:
            parts += (body,)
        if parts:
            self._write(parts)
        if not more:
            self.stage = DONE
            conn.answered(self)
        return conn.drained() if conn.choked else conn.site.sent

    def _write(self, parts: tuple[bytes, ...]) -> None:
        if len(parts[-1]) > JOIN_BYTES:
            self.conn.transport.writelines(parts)
        else:
            self.conn.transport.write(b"".join(parts))
        if self.conn.site.access is not None:
            self.sent += sum(map(len, parts))

    def _begin(self, head: Head, size: int, more: bool) -> tuple[bytes, ...]:
        """The head, now that it is known how the body comes; sets how that is framed. Raises BadResponse."""
        text, length, close, dated = head
        keep = self.keep_alive and not close
        if self.status in BODYLESS or self.scope["method"] == "HEAD":
            self.mute = True
            self.left = None
            framing = b"" if length is None or self.status == 204 else b"\r\ncontent-length: %d" % length
        elif length is not None or not more:
            self.left = length = size if length is None else length
            self._check_length(length, size, more)
            framing = b"\r\ncontent-length: %d" % length
        else:
            self.left = None
            self.chunked = not self.old
            framing = b"\r\ntransfer-encoding: chunked" if self.chunked else b""
            keep = keep and self.chunked  # HTTP/1.0 knows no chunks: the end of the connection ends the body
        return text, framing, self.conn.tail(self, keep, dated)

    def _check_length(self, left: int, size: int, more: bool) -> None:
        if size > left or (size < left and not more):
            raise BadResponse(f"the body of {self} is {'longer' if size > left else 'shorter'} than its content-length")

    # The end of what has no end.

    @property
    def events(self) -> bool:
        """Server-sent events: a response that has no end of its own, though its first event may be still to come. Its
        app was not yet told to come to an end."""
        if self.ending or self.gone or not HEADED <= self.stage <= BEGUN:
            return False
        return self.head[1] is None and EVENTS in self.head[0].lower()

    def end_events(self) -> None:
        """The server leaves. The app is told that its client has gone, as far as it is concerned, and may say a last
        word; soon afterwards the stream ends in order, and its client comes back to another worker."""
        self.ending = True
        self.wake()
        self.conn.loop.call_later(LAST_WORD_S, self._end)

    def _end(self) -> None:
        if not HEADED <= self.stage <= BEGUN or self.gone:
            return
        parts = self._begin(self.head, 0, more=True) if self.stage == HEADED else ()
        parts += chunk(b"", more=False) if self.chunked else ()  # HTTP/1.0: the connection's end is the stream's
        if parts:
            self._write(parts)
        self.stage = DONE
        self.gone = True
        self.conn.answered(self)
        self.conn.loop.call_later(LAST_WORD_S, self.task.cancel, "its event stream has ended")

    # How it went wrong.

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            _log.warning("%s was cancelled", self)
        elif not (self.gone and caused_by_the_client(error)):
            _log.error("the app failed at %s", self, exc_info=error)
        if self.stage != DONE and not self.gone:
            self.conn.broken(self)

    def __str__(self) -> str:
        scope: Any = self.scope
        return f"{scope['method']} {scope['path']}"


def chunk(body: bytes, more: bool) -> tuple[bytes, ...]:
    """A piece of a body in the chunked coding; an empty chunk would be its end."""
    size = b"%x\r\n" % len(body)
    if more:
        return (size, body, b"\r\n") if body else ()
    return (size, body, b"\r\n0\r\n\r\n") if body else (b"0\r\n\r\n",)

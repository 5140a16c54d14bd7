"""One request over HTTP/2: ASGI's `receive` and `send` on a stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from enum import Enum
from typing import Any, Protocol
from urllib.parse import unquote

from gapless.server.http.client_gone import ClientGone, caused_by_the_client
from gapless.server.http.client_limits import ClientLimits, body_due
from gapless.server.http1.cycle import EVENTS, LAST_WORD_S
from gapless.server.http1.protocol import address
from gapless.server.http2.due import NEVER
from gapless.server.http2.fields import Field, Request, write_fields, write_response
from gapless.server.tls.certificates import extension
from gapless.service.asgi import App, Message, Scope

_log = logging.getLogger("gapless.server")

BODYLESS = frozenset({204, 205, 304})


class Link(Protocol):
    """What a stream asks of its connection."""

    def send_fields(self, number: int, fields: list[Field], *, end: bool) -> None:
        """A header block: informational, the response's, or trailers."""

    async def send_body(self, stream: Stream, body: bytes, *, end: bool) -> None:
        """Returns when all of it was given away, or the stream is gone."""

    def send_end(self, number: int) -> None:
        """The response ends here."""

    def took(self, number: int, size: int) -> None:
        """The app has read so much: the client may send as much again."""

    def asks(self, stream: Stream) -> None:
        """The app waits for the request's body."""

    def completed(self, stream: Stream) -> None:
        """The response has been sent in full."""

    def left(self, stream: Stream) -> None:
        """The app has returned."""

    @property
    def default_fields(self) -> Iterable[Field]:
        """For responses that do not have them."""


class Step(Enum):
    START = "http.response.start"
    BODY = "http.response.body"
    TRAILERS = "http.response.trailers"
    DONE = "nothing more"


class Stream:
    __slots__ = (
        "_body",
        "_changed",
        "_continues",
        "_fields",
        "_left_to_send",
        "_link",
        "_owed",
        "_silent",
        "_told",
        "_trailers",
        "_with_trailers",
        "arrived_bytes",
        "asked_at",
        "began",
        "ended",
        "ending",
        "events",
        "gone",
        "number",
        "request",
        "request_id",
        "room",
        "scope",
        "sent",
        "status",
        "step",
        "task",
        "waited_s",
        "waits_since",
    )

    def __init__(self, link: Link, number: int, request: Request, scope: Scope, ended: bool) -> None:
        self.number = number
        self.request = request
        self.task: asyncio.Task[None] | None = None
        self.events = False
        """Server-sent events: a response that has no end of its own."""
        self.ending = False
        self.ended = ended
        """The request's body has arrived in full."""
        self.gone = False
        """Nobody waits for the response any more."""
        self.step = Step.START
        self.status = 0
        self.room: asyncio.Future[None] | None = None
        """What it waits for when it may not send."""
        self.waits_since = 0.0
        self._link = link
        self.scope = scope
        self.sent = 0
        self.began = 0.0
        self.request_id = ""
        self.arrived_bytes = 0
        self.asked_at = 0.0
        """Since when the app waits for the body; 0 while it does not."""
        self.waited_s = 0.0
        """How long it has waited before."""
        self._continues = request.continues and not ended
        self._body = bytearray()
        self._owed = 0
        self._told = False
        self._changed = asyncio.Event()
        self._fields: list[Field] | None = None
        self._silent = False
        self._left_to_send = -1
        self._with_trailers = False
        self._trailers: list[Field] = []

    @property
    def unanswered(self) -> bool:
        """Nothing of the response has been sent."""
        return self.step is Step.START or self._fields is not None

    # What the client does.

    def arrived(self, data: bytes, size: int) -> int:
        """A piece of the body, of `size` in the window; how much of it there was so far."""
        self._body += data
        self._owed += size
        self.arrived_bytes += len(data)
        self._changed.set()
        return self.arrived_bytes

    def end(self) -> None:
        self.ended = True
        self._changed.set()

    def disconnect(self) -> None:
        """Its client has gone, or is taken for gone."""
        self.gone = True
        self._give_back()
        self._changed.set()
        self.wake()

    def end_events(self) -> None:
        """The server leaves: as in HTTP/1.1, the app may say a last word, and soon afterwards the stream ends."""
        self.events = False
        self.ending = True
        self._changed.set()
        asyncio.get_running_loop().call_later(LAST_WORD_S, self._end_events)

    def _end_events(self) -> None:
        if self.step is not Step.BODY or self.gone:
            return
        self.step = Step.DONE
        fields, self._fields = self._fields, None
        if fields is not None:  # its first event was still to come
            self._link.send_fields(self.number, fields, end=True)
        else:
            self._link.send_end(self.number)
        self._complete()
        self.disconnect()
        if self.task is not None:
            asyncio.get_running_loop().call_later(LAST_WORD_S, self.task.cancel, "its event stream has ended")

    def late_at(self, limits: ClientLimits) -> float:
        """When a body that the app waits for will be late. Who has begun to answer may wait as long as it likes."""
        if not self.asked_at or not self.unanswered:
            return NEVER
        return body_due(limits, self.asked_at - self.waited_s, self.arrived_bytes)

    def wake(self) -> None:
        """It may look again whether it may send."""
        if self.room is not None and not self.room.done():
            self.room.set_result(None)

    # What the app does.

    async def run(self, app: App) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 - the app's failures end here, whatever they are
            self._failed(error)
        else:
            if self.ending:
                self._end_events()
            elif self.step is not Step.DONE and not self.gone:
                _log.error("the app returned from %s without %s", self, self.step.value)
        finally:
            self._link.left(self)

    @property
    def _over(self) -> bool:
        """Nothing more of the request will be given to the app."""
        return self.gone or self.ending or self.step is Step.DONE

    async def receive(self) -> Message:
        if self._continues and self.step is Step.START and not self.gone:
            self._continues = False
            self._link.send_fields(self.number, [(b":status", b"100")], end=False)
        while not (self._over or self._body or (self.ended and not self._told)):
            await self._change()
        if self._over:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        self._told = self.ended
        self._give_back()
        return {"type": "http.request", "body": body, "more_body": not self.ended}

    async def _change(self) -> None:
        loop = asyncio.get_running_loop()
        self._changed.clear()
        if not self.ended:
            self.asked_at = loop.time()
            self._link.asks(self)
        await self._changed.wait()
        if self.asked_at:
            self.waited_s += loop.time() - self.asked_at
            self.asked_at = 0.0

    async def send(self, message: Message) -> None:
        if self.gone:
            raise ClientGone("the client has gone")
        kind = message["type"]
        if kind != self.step.value:
            raise RuntimeError(f"expected ASGI message {self.step.value!r}, got {kind!r}")
        if self.step is Step.START:
            self._start(message)
        elif self.step is Step.BODY:
            await self._send_body(message)
        else:
            await self._send_trailers(message)

    def _start(self, message: Message) -> None:
        """Only remembered: ASGI has a response begin with its first body, and then one frame may do for all."""
        self.status = message["status"]
        response = write_response(self.status, message.get("headers", ()), self._link.default_fields)
        self._fields, self._left_to_send = response
        self._with_trailers = bool(message.get("trailers"))
        self.events = self._left_to_send < 0 and EVENTS in dict(self._fields).get(b"content-type", b"").lower()
        self.request_id = dict(self._fields).get(b"x-request-id", b"").decode("latin-1")
        self._silent = self.request.method == "HEAD" or self.status in BODYLESS
        self.step = Step.BODY

    async def _send_body(self, message: Message) -> None:
        body, more = self._due(message)
        last = not more and not self._with_trailers
        fields, self._fields = self._fields, None
        if fields is not None:
            self._link.send_fields(self.number, fields, end=last and not body)
        if body or (last and fields is None):
            self.sent += len(body)
            await self._link.send_body(self, body, end=last)
        if not more and not self.gone:
            self.step = Step.TRAILERS if self._with_trailers else Step.DONE
            if last:
                self._complete()

    def _due(self, message: Message) -> tuple[bytes, bool]:
        """What of the message must be sent, checked against content-length, and whether there is more."""
        body, more = message.get("body", b""), bool(message.get("more_body", False))
        if self._silent:
            return b"", more
        if self._left_to_send >= 0:
            self._left_to_send -= len(body)
            if self._left_to_send < 0:
                raise RuntimeError("Response content longer than Content-Length")
            if self._left_to_send and not more:
                raise RuntimeError("Response content shorter than Content-Length")
        return body, more

    async def _send_trailers(self, message: Message) -> None:
        self._trailers += write_fields(message.get("headers", ()))
        if message.get("more_trailers", False):
            return
        self.step = Step.DONE
        if self._trailers:
            self._link.send_fields(self.number, self._trailers, end=True)
        else:
            await self._link.send_body(self, b"", end=True)
        self._complete()

    def _complete(self) -> None:
        self._give_back()
        self._changed.set()
        self._link.completed(self)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            _log.warning("%s was cancelled", self)
        elif not (self.gone and caused_by_the_client(error)):
            _log.error("the app failed at %s", self, exc_info=error)

    def __str__(self) -> str:
        return f"{self.request.method} {self.scope['path']}"

    def _give_back(self) -> None:
        size, self._owed = self._owed, 0
        if size:
            self._link.took(self.number, size)


def scope_of_connection(transport: asyncio.Transport) -> dict[str, Any]:
    """What the scopes of all its requests have in common."""
    tls = extension(transport)
    extensions = {"http.response.trailers": {}, **({"tls": tls} if tls else {})}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "2",
        "scheme": "https" if tls else "http",
        "client": address(transport.get_extra_info("peername")),
        "server": address(transport.get_extra_info("sockname")),
        "root_path": "",
        "extensions": extensions,
    }


def scope_of(request: Request, connection: dict[str, Any]) -> Scope:
    """ASGI's, for one request."""
    path = request.raw_path.decode("ascii")
    return {
        **connection,
        "method": request.method,
        "path": unquote(path) if "%" in path else path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "headers": request.fields,
        "state": {},
    }

"""ASGI middleware: a request with an `Idempotency-Key` has its effect once, however often and wherever it is sent
(draft-ietf-httpapi-idempotency-key-header-07).

    app = Idempotency(app, Claims("orders.db", world), world)

Same key, same payload: the stored answer, with `Idempotent-Replayed: true`. Still being worked on: waited for, then
409 with Retry-After. Another payload: 422. A key's scope is who asks (x-user-id, Authorization), method and path.

2xx to 4xx are kept. 429 and 503 say that nothing was done, and free the key. After any other failure, and after a crash
once the lease has lapsed, the next request with the key does the work again: handlers that must not do half of it twice
commit with `complete_in(connection, current(), response)` inside their own transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from gapless.consistency.claims import Claim, Claims, Done, InFlight, Mismatch, StoredResponse, Verdict, complete_in
from gapless.core.errors import GaplessError, LeaseLost
from gapless.core.ports import World

__all__ = ["Idempotency", "Options", "StoredResponse", "complete_in", "current"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NOTHING_DONE = frozenset({429, 503})
NOT_REPLAYED = frozenset({"set-cookie", "date", "connection", "transfer-encoding", "x-gapless-instance"})
"""Headers that belong to the first answer's moment, connection or session."""
LONGEST_KEY = 255
FIRST_LOOK_S, LONGEST_LOOK_S = 0.02, 0.25
"""How often a key in flight is looked at: at first as often as a fast handler ends."""

_log = logging.getLogger("gapless.idempotency")
_current: ContextVar[Claim | None] = ContextVar("gapless_claim", default=None)


def current() -> Claim | None:
    """The claim of the request being served; None when it has no key."""
    return _current.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    methods: frozenset[str] = frozenset({"POST", "PATCH"})
    """Others are idempotent by themselves."""
    required: bool = False
    """Refuse requests of these methods that have no key."""
    lease_s: float = 2.0
    """How long after its death an owner keeps others waiting; a living one renews three times as often."""
    wait_s: float = 3.0
    """How long a request waits for another one with its key: longer than a lease, so that a crash costs the client a
    moment and no error."""
    largest: int = 1024 * 1024
    """Bytes of a request or a response that are held."""


def parse_key(value: bytes) -> str:
    """The key in a header: a structured-field string (RFC 9651 §3.3.3), or bare. Raises ValueError."""
    text = value.decode("latin-1").strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not text or len(text) > LONGEST_KEY or not text.isprintable():
        raise ValueError(f"Idempotency-Key must be 1 to {LONGEST_KEY} printable characters")
    return text


def principal(headers: dict[bytes, bytes]) -> str:
    """Who asks: keys of different callers must never meet."""
    credentials = headers.get(b"authorization", b"")
    digest = hashlib.sha256(credentials).hexdigest()[:16] if credentials else ""
    return f"{headers.get(b'x-user-id', b'').decode('latin-1')}|{digest}"


class _Recorded:
    """The app's response, held back until it is kept; streamed through once it is larger than what is held."""

    def __init__(self, send: Send, largest: int) -> None:
        self._send = send
        self._largest = largest
        self._held: list[Message] = []
        self._size = 0
        self.status = 0
        self.complete = False
        self.streaming = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self._size += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        self._held.append(dict(message))
        if self.streaming or self._size > self._largest:
            self.streaming = True
            await self.flush()

    async def flush(self) -> None:
        held, self._held = self._held, []
        for message in held:
            await self._send(message)

    def stored(self) -> StoredResponse:
        """What is to be replayed; a response too large to be held is replaced by the news that it is gone."""
        if self.streaming:
            return _problem(409, "This was done, but its answer was too large to be kept")
        start = next(message for message in self._held if message["type"] == "http.response.start")
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start.get("headers", ())]
        kept = tuple((name, value) for name, value in pairs if name not in NOT_REPLAYED)
        body = b"".join(message.get("body", b"") for message in self._held)
        return StoredResponse(status=self.status, headers=kept, body=body)


class Idempotency:
    """Wraps an app; `claims` is shared by all processes that serve it."""

    def __init__(self, app: App, claims: Claims, world: World, options: Options | None = None) -> None:
        self._app = app
        self._claims = claims
        self._world = world
        self._options = options or Options()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            finally:
                await self._claims.aclose()
        elif scope["type"] != "http" or scope["method"] not in self._options.methods:
            await self._app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        value = headers.get(b"idempotency-key")
        if value is None and not self._options.required:
            await self._app(scope, receive, send)
            return
        try:
            key = parse_key(value or b"")
        except ValueError as error:
            await _answer(send, _problem(400, str(error)))
            return
        body = await _read(receive, self._options.largest)
        if body is None:
            await _answer(
                send, _problem(413, f"With an Idempotency-Key at most {self._options.largest} bytes are taken")
            )
            return
        fingerprint = hashlib.sha256(scope.get("query_string", b"") + b"\0" + body).digest()
        place = f"{principal(headers)} {scope['method']} {scope['path']}"
        try:
            verdict = await self._claim(place, key, fingerprint)
        except (sqlite3.Error, GaplessError):
            _log.exception("idempotency keys cannot be claimed; the request is refused")
            await _answer(send, _problem(503, "Idempotency keys cannot be stored at the moment"), ("retry-after", "1"))
            return
        await self._act(verdict, scope, _again(body, receive), send)

    async def _claim(self, place: str, key: str, fingerprint: bytes) -> Verdict:
        """Claim it, waiting for another owner for a while."""
        end = self._world.now() + self._options.wait_s
        owner, look_s = self._world.token(), FIRST_LOOK_S
        while True:
            verdict = await self._claims.claim(place, key, fingerprint, owner, self._options.lease_s)
            left_s = end - self._world.now()
            if not isinstance(verdict, InFlight) or left_s <= 0:
                return verdict
            await self._world.sleep(min(look_s, left_s))
            look_s = min(look_s * 2, LONGEST_LOOK_S)

    async def _act(self, verdict: Verdict, scope: Scope, receive: Receive, send: Send) -> None:
        match verdict:
            case Done(response):
                await _answer(send, response, ("idempotent-replayed", "true"))
            case Mismatch():
                await _answer(send, _problem(422, "This Idempotency-Key was used for another request"))
            case InFlight(left_s):
                again = ("retry-after", str(max(1, round(left_s))))
                await _answer(send, _problem(409, "A request with this Idempotency-Key is being worked on"), again)
            case _:
                await self._work(verdict.claim, scope, receive, send)

    async def _work(self, claim: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        recorded = _Recorded(send, self._options.largest)
        token = _current.set(claim)
        try:
            async with self._renewed(claim):
                await self._app(scope, receive, recorded.send)
        except BaseException:
            await self._claims.abandon(claim)
            raise
        finally:
            _current.reset(token)
        try:
            await self._settle(claim, recorded)
        except LeaseLost:
            if not recorded.streaming:
                await _answer(send, _problem(409, "Another instance is doing this"), ("retry-after", "1"))
                return
        except sqlite3.Error:
            _log.exception("the answer to idempotency key %r could not be kept", claim.key)
        await recorded.flush()

    async def _settle(self, claim: Claim, recorded: _Recorded) -> None:
        """Keep, free or give up, by how it ended; always before the caller hears of it."""
        if recorded.status in NOTHING_DONE:
            await self._claims.release(claim)
        elif recorded.complete and 200 <= recorded.status < 500:
            await self._claims.complete(claim, recorded.stored())
        else:
            await self._claims.abandon(claim)

    @asynccontextmanager
    async def _renewed(self, claim: Claim) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self._renew(claim))
        try:
            yield
        finally:
            renewing.cancel()

    async def _renew(self, claim: Claim) -> None:
        while True:
            await self._world.sleep(self._options.lease_s / 3)
            try:
                await self._claims.renew(claim, self._options.lease_s)
            except LeaseLost:
                _log.warning("idempotency key %r was taken over while it was being worked on", claim.key)
                return
            except sqlite3.Error as error:
                _log.warning("the lease of idempotency key %r could not be renewed: %s", claim.key, error)


def _problem(status: int, title: str) -> StoredResponse:
    body = json.dumps({"title": title, "status": status}).encode()
    return StoredResponse(status=status, headers=(("content-type", "application/problem+json"),), body=body)


async def _answer(send: Send, response: StoredResponse, *more: tuple[str, str]) -> None:
    pairs = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in (*response.headers, *more) if n != "content-length"]
    pairs.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": pairs})
    await send({"type": "http.response.body", "body": response.body})


async def _read(receive: Receive, largest: int) -> bytes | None:
    """The whole body; None when it is too large. A client that leaves before its end has asked for nothing."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > largest:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The app's `receive`: the body that was read, then whatever follows."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        with suppress(IndexError):
            return waiting.pop()
        return await receive()

    return replay

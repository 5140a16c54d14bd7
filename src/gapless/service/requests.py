"""The way of a request through the kit: counted, timed, given its deadline and its context, and passed on.

Written for speed (benchmarks/kit.py): everything that does not depend on the request is prepared beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from itertools import count
from typing import Any

from gapless.core.ports import World
from gapless.observe import log
from gapless.observe.metrics import Counter, Histogram, Meter
from gapless.resilience import deadline
from gapless.service import inbound
from gapless.service.asgi import App, Headers, Message, Receive, Scope, Send, respond
from gapless.service.identity import Identity

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
"""Others are counted together: a client must not be able to make up label values."""
TOO_LATE = b'{"title":"The deadline of this request had passed before it arrived","status":504}'
PROBLEM: Headers = [(b"content-type", b"application/problem+json")]


class Exchange:
    """One request and what was answered."""

    __slots__ = ("_extra", "_send", "scope", "status")

    def __init__(self, scope: Scope, send: Send, extra: Headers) -> None:
        self.scope = scope
        self.status = 0
        self._send = send
        self._extra = extra

    def send(self, message: Message) -> Awaitable[None]:
        """The app's `send`; the response's start gets the headers that tell who answered."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._extra]}
        return self._send(message)


class Requests:
    """ASGI: the outermost layer of a service."""

    def __init__(
        self,
        inner: App,
        probes: Mapping[str, App],
        identity: Identity,
        *,
        world: World,
        meter: Meter,
        deadline_s: float,
        state: Mapping[str, Any],
    ) -> None:
        self._inner = inner
        self._probes = probes
        self._state = state
        self._deadline_s = deadline_s
        self._now = world.now
        self._extra = identity_headers(identity)
        self._prefix = world.token()
        self._numbers = count(1)
        self._total = meter.counter("gapless_requests", "Requests answered", ("method", "status"))
        self._took = meter.histogram("gapless_request_duration_seconds", "Time to answer", ("method", "status"))
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        gauge = meter.gauge("gapless_requests_in_flight", "Requests being answered").labels()
        meter.before_samples(lambda: gauge.set(len(self.in_flight)))
        self.in_flight: set[Exchange] = set()
        self._idle: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._pass(scope, receive, Exchange(scope, send, self._extra))
        elif (probe := self._probes.get(scope["path"])) is not None:
            await probe(scope, receive, Exchange(scope, send, self._extra).send)
        else:
            await self._serve(scope, receive, Exchange(scope, send, self._extra))

    async def wait_idle(self) -> None:
        """Returns when no request is in flight."""
        while self.in_flight:
            self._idle = asyncio.Event()
            await self._idle.wait()

    async def _serve(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        began = self._now()
        headers = dict(scope["headers"])
        end = deadline.begin(began, headers.get(deadline.HEADER), self._deadline_s)
        name = headers.get(b"x-request-id")
        set_headers = inbound.headers.set(headers)
        set_deadline = deadline.current.set(end)
        set_id = log.request_id.set(name.decode("latin-1") if name else f"{self._prefix}-{next(self._numbers):x}")
        try:
            if end <= began:
                await respond(exchange.send, 504, TOO_LATE, PROBLEM)
            else:
                await self._pass(scope, receive, exchange)
        finally:
            log.request_id.reset(set_id)
            deadline.current.reset(set_deadline)
            inbound.headers.reset(set_headers)
            self._count(scope["method"], exchange.status, self._now() - began)

    async def _pass(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        if self._state:
            scope["state"] = {**self._state, **scope.get("state", {})}
        self.in_flight.add(exchange)
        try:
            await self._inner(scope, receive, exchange.send)
        finally:
            self.in_flight.discard(exchange)
            if self._idle is not None and not self.in_flight:
                self._idle.set()

    def _count(self, method: str, status: int, took_s: float) -> None:
        key = (method, status // 100)
        total, took = self._children.get(key) or self._child(method, status // 100)
        total.value += 1.0
        took.observe(took_s)

    def _child(self, method: str, hundred: int) -> tuple[Counter, Histogram]:
        """An app that raised before it answered (status 0) makes the server answer 500."""
        labels = (method if method in METHODS else "OTHER", f"{hundred or 5}xx")
        child = (self._total.labels(*labels), self._took.labels(*labels))
        if method in METHODS:
            self._children[method, hundred] = child
        return child


def identity_headers(identity: Identity) -> Headers:
    """Who answered, as far as it is known."""
    known = ((b"x-gapless-release", identity.release), (b"x-gapless-instance", identity.instance))
    return [(name, value.encode("latin-1", "replace")) for name, value in known if value]

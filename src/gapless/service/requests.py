"""The way of a request through the kit: counted, timed, given its deadline and its context, and passed on.

Written for speed (benchmarks/kit.py): everything that does not depend on the request is prepared beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from gapless.observe import log
from gapless.observe.metrics import Counter, Histogram, Meter
from gapless.observe.trace import context as trace_context
from gapless.observe.trace import recorder as trace_recorder
from gapless.resilience import deadline, pushback
from gapless.service import inbound
from gapless.service.asgi import FIELDS, App, Headers, Message, Receive, Scope, Send, respond
from gapless.service.identity import Identity
from gapless.service.route_label import Routes, route_of
from gapless.service.tracing import Tracing

if TYPE_CHECKING:
    from gapless.core.ports import World
    from gapless.observe.trace.context import Trace
    from gapless.observe.trace.recorder import Open
    from gapless.observe.trace.spans import Value

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
"""Others are counted together: a client must not be able to make up label values."""
REQUEST_ID = b"x-request-id"
MIRRORED = b"x-gapless-mirror"
"""Marks what the mirror, a smoke load or a contract check asks; the gateway takes it from everybody else."""
TOO_LATE = b'{"title":"The deadline of this request had passed before it arrived","status":504}'
FAILED = b'{"title":"Internal Server Error","status":500}'
PROBLEM: Headers = [(b"content-type", b"application/problem+json")]


ID_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/+=@-"
LONGEST_ID = 128


class Traffic(Protocol):
    """Requests that are being answered, whatever they speak."""

    in_flight: set[Any]

    @property
    def answered(self) -> int:
        """How many, probes not counted."""

    async def wait_idle(self) -> None:
        """Returns when no request is in flight."""

    def shown(self) -> list[str]:
        """What is in flight, for people."""


class Exchange:
    """One request and what was answered."""

    __slots__ = ("_extra", "_id", "_send", "began", "headers", "retried", "scope", "status", "trace")

    def __init__(self, scope: Scope, send: Send, extra: Headers, request_id: bytes, began: float) -> None:
        self.scope = scope
        self.status = 0
        self.headers = inbound.NONE
        self.retried = False
        self.trace = b""  # that it is recorded, for whoever asked
        self.began = began
        self._send = send
        self._extra = extra
        self._id = request_id

    def retries_spent(self) -> None:
        self.retried = True

    def send(self, message: Message) -> Awaitable[None]:
        """The app's `send`; the response's start gets the headers that tell who answered, and what."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *self._extra]
            if self._id:
                for name, _ in headers:
                    if name == REQUEST_ID:
                        break
                else:
                    headers.append((REQUEST_ID, self._id))
            if self.trace:
                headers.append((trace_context.RESPONSE, self.trace))
            if self.retried and self.status >= pushback.FAILED_FROM:
                headers.append((pushback.HEADER, b"1"))
            message = dict(message)  # the app may send the same one again
            message["headers"] = headers
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
        tracing: Tracing,
    ) -> None:
        self._tracing = tracing
        self._slow_s = tracing.policy.slow_s
        self._inner = inner
        self._probes = probes
        self._state = state
        self._deadline_s = deadline_s
        self._now = world.now
        self._extra = identity_headers(identity)
        self._prefix = world.token().encode()
        self._numbers = count(1)
        labels = ("method", "route", "status")
        self._mirrored = meter.histogram(
            "gapless_mirrored_request_duration_seconds", "Time to answer what no user waits for"
        ).labels()
        self._total = meter.counter("gapless_requests", "Requests answered", labels)
        self._took = meter.histogram("gapless_request_duration_seconds", "Time to answer", labels)
        self._routes = Routes()
        self._time = world.time
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        gauge = meter.gauge("gapless_requests_in_flight", "Requests being answered").labels()
        meter.before_samples(lambda: gauge.set(len(self.in_flight)))
        self.in_flight: set[Any] = set()
        self._idle: asyncio.Event | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if scope["type"] != "http":
            return self._other(scope, receive, send)
        if (probe := self._probes.get(scope["path"])) is not None:
            return self._probe(probe, scope, receive, send)
        return self._serve(scope, receive, send)

    async def wait_idle(self) -> None:
        """Returns when no request is in flight."""
        while self.in_flight:
            self._idle = asyncio.Event()
            await self._idle.wait()

    def shown(self) -> list[str]:
        """What is in flight, for people."""
        return [f"{named(exchange.scope)}, for {self._now() - exchange.began:.1f} s" for exchange in self.in_flight]

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One coroutine, and nothing looked up twice: this is on the way of every request."""
        began = self._now()
        headers = scope.get(FIELDS) or dict(scope["headers"])
        limit = headers.get(deadline.HEADER)
        end = began + self._deadline_s if limit is None else deadline.begin(began, limit, self._deadline_s)
        name = headers.get(REQUEST_ID)
        if name is None or not well_formed(name):
            name = b"%b-%x" % (self._prefix, next(self._numbers))
        exchange = Exchange(scope, send, self._extra, name, began)
        exchange.headers = headers
        set_deadline = deadline.current.set(end)
        set_id = log.request_id.set(name.decode())
        set_served = pushback.served.set(exchange)
        trace, parent_id = self._tracing.begin(headers.get(trace_context.HEADER))
        set_trace = trace_context.present.set(trace)
        span = self._open(exchange, trace, parent_id) if trace.sampled else None
        if self._state:
            scope["state"] = {**self._state, **scope.get("state", {})}
        self.in_flight.add(exchange)
        try:
            if end <= began:
                await respond(exchange.send, 504, TOO_LATE, PROBLEM)
            else:
                await self._inner(scope, receive, exchange.send)
            trace_context.present.reset(set_trace)
            log.request_id.reset(set_id)  # not when it raises: whoever logs that shall say which request it was
        except Exception:
            if exchange.retried and not exchange.status:  # the server's own answer would not say so
                await respond(exchange.send, 500, FAILED, PROBLEM)
            raise
        finally:
            self._left(exchange)
            pushback.served.reset(set_served)
            deadline.current.reset(set_deadline)
            took_s = self._now() - began
            took = self._count(scope, exchange.status, took_s) if MIRRORED not in headers else self._mirror(took_s)
            if span is not None or took_s >= self._slow_s or failed(exchange.status):
                took.exemplify(took_s, trace.trace_id, self._time())
                self._recorded(scope, exchange.status, span, trace, parent_id, took_s)

    def _mirror(self, took_s: float) -> Histogram:
        """No user waited for it: it counts in nobody's figures."""
        self._mirrored.observe(took_s)
        return self._mirrored

    def _left(self, exchange: Exchange) -> None:
        self.in_flight.discard(exchange)
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    def _open(self, exchange: Exchange, trace: Trace, parent_id: str) -> Open:
        exchange.trace = trace_context.render(trace)
        trace_recorder.recorder.set(self._tracing.recorder)  # this task's own, and it ends with the request
        return self._tracing.open(exchange.scope["method"], trace, parent_id)

    def _recorded(
        self, scope: Scope, status: int, span: Open | None, trace: Trace, parent_id: str, took_s: float
    ) -> None:
        name, attributes, bad = route_named(scope), described(scope, status), failed(status)
        if span is not None:
            span.end(name, failed=bad, attributes=attributes)
        else:
            self._tracing.late(name, trace, parent_id, took_s=took_s, failed=bad, attributes=attributes)

    async def _probe(self, probe: App, scope: Scope, receive: Receive, send: Send) -> None:
        await probe(scope, receive, Exchange(scope, send, self._extra, b"", 0.0).send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket."""
        exchange = Exchange(scope, send, self._extra, b"", self._now())
        if self._state:
            scope["state"] = {**self._state, **scope.get("state", {})}
        self.in_flight.add(exchange)
        try:
            await self._inner(scope, receive, exchange.send)
        finally:
            self._left(exchange)

    def _count(self, scope: Scope, status: int, took_s: float) -> Histogram:
        key = (scope["method"], route_of(scope), status // 100)
        total, took = self._children.get(key) or self._child(*key)
        total.value += 1.0
        took.observe(took_s)
        return took

    @property
    def answered(self) -> int:
        return int(sum(total.value for total in self._total.children.values()))

    def _child(self, method: str, route: str, hundred: int) -> tuple[Counter, Histogram]:
        """An app that raised before it answered (status 0) makes the server answer 500."""
        known = self._routes.label(route)
        labels = (method if method in METHODS else "OTHER", known, f"{hundred or 5}xx")
        child = (self._total.labels(*labels), self._took.labels(*labels))
        if method in METHODS and known == route:
            self._children[method, route, hundred] = child
        return child


def well_formed(request_id: bytes) -> bool:
    """Whether a caller's `x-request-id` is taken over: it goes into logs, answers and calls, and must do no harm."""
    if not 0 < len(request_id) <= LONGEST_ID:
        return False
    return request_id.replace(b"-", b"").isalnum() or not request_id.translate(None, ID_BYTES)


def failed(status: int) -> bool:
    """An app that raised before it answered has status 0."""
    return status >= pushback.FAILED_FROM or not status


def route_named(scope: Scope) -> str:
    """A request by its method and the template of its route, which only the framework knows, and after it was asked."""
    route = route_of(scope)
    return f"{scope['method']} {route}" if route else str(scope["method"])


def described(scope: Scope, status: int) -> dict[str, Value]:
    """As OpenTelemetry's conventions name it."""
    client = scope.get("client")
    return {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "http.response.status_code": status or 500,
        **({"client.address": str(client[0])} if client else {}),
    }


def named(scope: Scope) -> str:
    """A request by its method and path, and by its route, where the framework tells."""
    route = route_of(scope)
    name = f"{scope.get('method', scope['type'])} {scope['path']}"
    return f"{name} (route {route})" if route and route != scope["path"] else name


def identity_headers(identity: Identity) -> Headers:
    """Who answered, as far as it is known."""
    known = ((b"x-gapless-release", identity.release), (b"x-gapless-instance", identity.instance))
    return [(name, value.encode("latin-1", "replace")) for name, value in known if value]

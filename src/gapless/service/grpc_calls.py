"""The way of a gRPC call through the kit: counted, timed, logged, given its deadline and its context.

Families are those of HTTP: `gapless_requests{method="gRPC",route="shop.Orders/Get",status="2xx",code="OK"}`. The status
is what the gateway makes of the code, so that rules and dashboards for errors are right for both. The standard services
for health and reflection are not counted, as probes are not.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from itertools import count
from typing import Any

import grpc

from gapless.core.ports import World
from gapless.observe import log
from gapless.observe.access import Sampled
from gapless.observe.metrics import Counter, Histogram, Meter
from gapless.observe.trace import context as trace_context
from gapless.observe.trace import recorder as trace_recorder
from gapless.observe.trace.context import Trace
from gapless.observe.trace.recorder import Open
from gapless.observe.trace.spans import Value
from gapless.resilience import deadline, pushback
from gapless.service.route_label import Routes
from gapless.service.tracing import Tracing

_log = logging.getLogger("gapless.access")

OWN = ("/grpc.health.", "/grpc.reflection.")
"""Prefixes of the methods that the server adds by itself."""
FAULTS = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
"""The server's own, by OpenTelemetry's conventions; others are the client's, or an answer."""
ERRORS = FAULTS - {"UNIMPLEMENTED"}
"""What counts as a 5xx of HTTP: a method that is not there is no error rate of those that are."""
LABELS = ("method", "route", "status", "code")
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_HEADER = deadline.HEADER.decode()
_FINAL = (pushback.GRPC_KEY, "-1")
Handle = Callable[..., Any]


class Call:
    """One call that is being answered."""

    __slots__ = ("began", "context", "headers", "method", "parent_id", "retried", "span", "trace")
    trace: Trace
    parent_id: str

    def __init__(self, method: str, context: Any, began: float, headers: Mapping[bytes, bytes]) -> None:
        self.method, self.context, self.began, self.headers = method, context, began, headers
        self.retried = False
        self.span: Open | None = None

    def retries_spent(self) -> None:
        """Said at once: `abort` sends what it finds, and nothing can be added afterwards."""
        if not self.retried:
            self.retried = True
            self.context.set_trailing_metadata((*_trailing(self.context), _FINAL))

    def answered(self) -> None:
        """It was no failure after all."""
        if self.retried and _status(self.context, None) == "OK":
            self.context.set_trailing_metadata(tuple(each for each in _trailing(self.context) if each != _FINAL))


def _trailing(context: Any) -> tuple[Any, ...]:
    return tuple(tuple(each) for each in context.trailing_metadata() or ())


class Calls(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The outermost interceptor."""

    def __init__(
        self,
        world: World,
        meter: Meter,
        tracing: Tracing,
        *,
        access: Sampled | None = None,
        pin: Callable[[], object] = object,
    ) -> None:
        """`pin` is called when a call begins, in its context."""
        self._tracing = tracing
        self.access = access
        self._pin = pin
        self.in_flight: set[Any] = set()
        self._now, self._time = world.now, world.time
        self._prefix = world.token()
        self._numbers = count(1)
        self._total = meter.counter("gapless_requests", "Requests answered", LABELS)
        self._took = meter.histogram("gapless_request_duration_seconds", "Time to answer", LABELS)
        self._routes = Routes()
        self._children: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._made: dict[str, tuple[Any, Any]] = {}
        gauge = meter.gauge("gapless_requests_in_flight", "Requests being answered").labels()
        meter.before_samples(lambda: gauge.set(len(self.in_flight)))
        self._idle: asyncio.Event | None = None

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Handlers are wrapped once. Only methods that exist are counted: a client must not make up label values."""
        handler = await continuation(details)
        method: str = details.method
        if handler is None or method.startswith(OWN):
            return handler
        before, made = self._made.get(method, (None, None))
        if before is not handler:
            made = _wrapped(self, method, handler)
            self._made[method] = (handler, made)
        return made

    async def wait_idle(self) -> None:
        """Returns when no call is in flight."""
        while self.in_flight:
            self._idle = asyncio.Event()
            await self._idle.wait()

    @property
    def answered(self) -> int:
        """How many calls have ended."""
        return int(sum(total.value for total in self._total.children.values()))

    def shown(self) -> list[str]:
        """What is in flight, for people."""
        return [f"gRPC {call.method}" for call in self.in_flight]

    def begin(self, method: str, context: Any) -> Call:
        """Each call is a task of its own, and what is set here ends with it."""
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        now = self._now()
        left = context.time_remaining()
        asked = deadline.parse(metadata.get(_HEADER, "").encode())
        deadline.current.set(now + min(math.inf if left is None else left, asked))
        log.request_id.set(metadata.get("x-request-id") or f"{self._prefix}-{next(self._numbers):x}")
        call = Call(method, context, now, {key.encode(): value.encode() for key, value in metadata.items()})
        call.trace, call.parent_id = self._tracing.begin(call.headers.get(trace_context.HEADER))
        trace_context.present.set(call.trace)
        if call.trace.sampled:
            trace_recorder.recorder.set(self._tracing.recorder)
            call.span = self._tracing.open(method, call.trace, call.parent_id)
        pushback.served.set(call)
        self._pin()
        self.in_flight.add(call)
        return call

    def end(self, call: Call, error: BaseException | None) -> None:
        self.in_flight.discard(call)
        if self._idle is not None and not self.in_flight:
            self._idle.set()
        status, took_s = _status(call.context, error), self._now() - call.began
        total, took = self._children.get((call.method, status)) or self._child(call.method, status)
        total.value += 1.0
        took.observe(took_s)
        self._traced(call, status, took_s, took)
        if self.access is not None and self.access.chosen(status in FAULTS, took_s):
            _log.info("%s gRPC %s %s %.1f ms", peer_of(call.context), call.method, status, took_s * 1000)

    def _traced(self, call: Call, status: str, took_s: float, took: Histogram) -> None:
        failed, name = status in FAULTS, call.method.strip("/")
        if not (call.span or failed or took_s >= self._tracing.policy.slow_s):
            return
        took.exemplify(took_s, call.trace.trace_id, self._time())
        attributes: dict[str, Value] = {"rpc.system": "grpc", "rpc.method": name, "rpc.response.status_code": status}
        if call.span:
            call.span.end(name, failed=failed, attributes=attributes)
        else:
            self._tracing.late(name, call.trace, call.parent_id, took_s=took_s, failed=failed, attributes=attributes)

    def _child(self, method: str, code: str) -> tuple[Counter, Histogram]:
        labels = ("gRPC", self._routes.label(method.strip("/")), status_of(code), code)
        child = (self._total.labels(*labels), self._took.labels(*labels))
        if labels[1] == method.strip("/"):  # else whoever makes up methods would fill the memory
            self._children[method, code] = child
        return child


def status_of(code: str) -> str:
    """The class of status that a code counts as."""
    return "2xx" if code == "OK" else "5xx" if code in ERRORS else "4xx"


def peer_of(context: Any) -> str:
    """The client's address, as `ipv4:127.0.0.1:50123`. `context.peer()` tells it behind the name of the process."""
    peer = str(context.peer())
    return peer.rpartition("/")[2] if peer.startswith("unix-abstract:") else peer


def _status(context: Any, error: BaseException | None) -> str:
    """The name of the code that the client gets."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "CANCELLED"
    code = context.code()
    if error is not None and not isinstance(error, grpc.aio.AbortError) and not code:
        return "UNKNOWN"
    if code is None:
        return "OK"
    return str(code.name) if isinstance(code, grpc.StatusCode) else _CODES.get(code, "UNKNOWN")


def _wrapped(calls: Calls, method: str, handler: Any) -> Any:
    asked = "stream" if handler.request_streaming else "unary"
    answered = "stream" if handler.response_streaming else "unary"
    inner: Handle = getattr(handler, f"{asked}_{answered}")
    make = getattr(grpc, f"{asked}_{answered}_rpc_method_handler")
    return make(
        _around(calls, method, inner, streams=handler.response_streaming),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _around(calls: Calls, method: str, inner: Handle, *, streams: bool) -> Handle:
    """In the shape of the handler: grpcio looks at it to know how to run it."""
    if inspect.isasyncgenfunction(inner):
        return _around_stream(calls, method, inner)
    if inspect.iscoroutinefunction(inner):
        return _around_coroutine(calls, method, inner)
    return _around_generator(calls, method, inner) if streams else _around_function(calls, method, inner)


def _around_coroutine(calls: Calls, method: str, inner: Handle) -> Handle:
    async def serve(request: Any, context: Any) -> Any:
        call, error = calls.begin(method, context), None
        try:
            answer = await inner(request, context)
            call.answered()
            return answer
        except BaseException as raised:
            error = raised
            raise
        finally:
            calls.end(call, error)

    return serve


def _around_stream(calls: Calls, method: str, inner: Handle) -> Handle:
    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
        call, error = calls.begin(method, context), None
        try:
            async for message in inner(request, context):
                yield message
            call.answered()
        except BaseException as raised:
            error = raised
            raise
        finally:
            calls.end(call, error)

    return serve


class _InThread:
    """The context of a handler that is not async, which does not tell what was set."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._code: Any = None
        self._trailing: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def code(self) -> Any:
        return self._code

    def set_code(self, code: Any) -> None:
        self._code = code
        self._context.set_code(code)

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self._trailing

    def set_trailing_metadata(self, metadata: Any) -> None:
        self._trailing = tuple(metadata)
        self._context.set_trailing_metadata(self._trailing)

    def abort(self, code: Any, *args: Any, **options: Any) -> None:
        self._code = code
        self._context.abort(code, *args, **options)


def _around_function(calls: Calls, method: str, inner: Handle) -> Handle:
    """grpcio runs it in a thread; our books are kept on the loop."""
    loop = asyncio.get_running_loop()

    def serve(request: Any, given: Any) -> Any:
        context = _InThread(given)
        call, error = calls.begin(method, context), None
        try:
            answer = inner(request, context)
            call.answered()
            return answer
        except BaseException as raised:
            error = raised
            raise
        finally:
            loop.call_soon_threadsafe(calls.end, call, error)

    return serve


def _around_generator(calls: Calls, method: str, inner: Handle) -> Handle:
    loop = asyncio.get_running_loop()

    def serve(request: Any, given: Any) -> Iterator[Any]:
        context = _InThread(given)
        call, error = calls.begin(method, context), None
        try:
            yield from inner(request, context)
            call.answered()
        except BaseException as raised:
            error = raised
            raise
        finally:
            loop.call_soon_threadsafe(calls.end, call, error)

    return serve

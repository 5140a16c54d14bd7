"""Spans by OpenTelemetry's SDK: one provider for the process, whose sampler follows the decision that was made when the
request came, and an export that nothing waits for.

To be imported where it is asked for only: it takes a tenth of a second. Needs `gapless[otel]`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace as api
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gapless.core.errors import ConfigError
from gapless.core.tracing import TracePolicy
from gapless.observe.trace.context import Ids, Trace, present
from gapless.observe.trace.recorder import Open, Who
from gapless.observe.trace.spans import Kept, Span, Value, clipped

EXPORT_LIMIT_S = 10
"""For one batch, in a thread that nobody waits for. A slow collector shall have its time; how long the end of a process
waits for it is decided there."""
EVERY_MS = 500
QUEUE = 16_384
"""Spans that wait while the collector is away: above them the newest are dropped, and counted by the SDK."""
BATCH = 512
TOLD_EVERY = 600
"""Of the exporter's complaints about one and the same collector, every so many is logged: they come with each batch."""

_KINDS = {SpanKind.SERVER: "server", SpanKind.CLIENT: "client", SpanKind.PRODUCER: "client"}
_NS = 1_000_000_000


class SdkRecorder:
    """Becomes OpenTelemetry's global provider, so that applications and instrumentations use it. Raises ConfigError."""

    def __init__(self, settings: TracePolicy, kept: Kept, who: Who, ids: Ids) -> None:
        self._decided = _Decided(ids, settings.sample)
        resource = {
            "service.name": who.service,
            "service.version": who.release,
            "service.instance.id": who.instance,
        }
        self._provider = TracerProvider(
            sampler=self._decided,
            id_generator=self._decided,
            resource=Resource.create({name: value for name, value in resource.items() if value}),
            span_limits=SpanLimits(max_attributes=64, max_attribute_length=2_000, max_events=64, max_links=16),
            shutdown_on_exit=False,  # it would wait for a dead collector; `close` does not
        )
        self._provider.add_span_processor(_Keep(kept, who))
        self._batch = _batch(settings.otlp) if settings.otlp else None
        if self._batch:
            self._provider.add_span_processor(self._batch)
        api.set_tracer_provider(self._provider)
        self._tracer = api.get_tracer("gapless", tracer_provider=self._provider)
        for library in settings.instrument:
            instrument(library, self._provider)

    def server(self, name: str, trace: Trace, parent_id: str) -> Open:
        parent = otel_context.Context()
        if parent_id:
            flags = TraceFlags(TraceFlags.SAMPLED)
            remote = SpanContext(int(trace.trace_id, 16), int(parent_id, 16), is_remote=True, trace_flags=flags)
            parent = api.set_span_in_context(NonRecordingSpan(remote), parent)
        with self._decided.of(trace):
            span = self._tracer.start_span(name, parent, SpanKind.SERVER)
        return _Server(span, trace)

    def child(self, name: str, within: Trace) -> Open:
        return _Child(self._tracer.start_span(name, kind=SpanKind.CLIENT))

    def close(self, limit_s: float) -> Callable[[], None] | None:
        """What waits is sent; what is not taken within the limit is lost."""
        if self._batch is None:
            return None
        batch = self._batch

        def work() -> None:
            thread = threading.Thread(target=batch.shutdown, name="gapless-spans", daemon=True)
            thread.start()
            thread.join(limit_s)
            if thread.is_alive():
                _log.warning("the collector of spans has not taken the last ones within %g s", limit_s)

        return work


_log = logging.getLogger("gapless.trace")


class _Server:
    def __init__(self, span: Any, trace: Trace) -> None:
        self._span = span
        self.trace = trace
        self._token = otel_context.attach(api.set_span_in_context(span))

    def end(self, name: str, *, failed: bool, attributes: dict[str, Value]) -> None:
        otel_context.detach(self._token)
        self._span.update_name(name)
        _end(self._span, failed, attributes)


class _Child:
    def __init__(self, span: Any) -> None:
        self._span = span
        context = span.get_span_context()
        sampled = bool(context.trace_flags & TraceFlags.SAMPLED)
        self.trace = Trace(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled)

    def end(self, name: str, *, failed: bool, attributes: dict[str, Value]) -> None:
        _end(self._span, failed, attributes)


def _end(span: Any, failed: bool, attributes: dict[str, Value]) -> None:
    span.set_attributes(attributes)
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


class _Decided(Sampler, IdGenerator):
    """Ids and decision of a request's own span are known when it begins; all others follow it. Spans outside of any
    request (at the start, in background work) are sampled by their share."""

    def __init__(self, ids: Ids, sample: float) -> None:
        self._ids = ids
        self._below = round(sample * 2**64)
        self._own = threading.local()

    def of(self, trace: Trace) -> _Decision:
        return _Decision(self._own, trace)

    def generate_trace_id(self) -> int:
        trace = getattr(self._own, "trace", None)
        return int(trace.trace_id, 16) if trace else int(self._ids.trace_id(), 16)

    def generate_span_id(self) -> int:
        trace = getattr(self._own, "trace", None)
        return int(trace.span_id, 16) if trace else int(self._ids.span_id(), 16)

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """A sampler hands on the attributes that a span begins with, or they are lost."""
        yes = self._yes(parent_context, trace_id)
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes) if yes else SamplingResult(Decision.DROP)

    def _yes(self, parent_context: Any, trace_id: int) -> bool:
        if getattr(self._own, "trace", None):
            return True
        parent = api.get_current_span(parent_context).get_span_context()
        if parent.is_valid:
            return bool(parent.trace_flags & TraceFlags.SAMPLED)
        trace = present.get()
        return trace.sampled if trace else trace_id & (2**64 - 1) < self._below

    def get_description(self) -> str:
        return "gapless"


class _Decision:
    """While it lasts, the next span of this thread gets these ids."""

    __slots__ = ("_own", "_trace")

    def __init__(self, own: threading.local, trace: Trace) -> None:
        self._own, self._trace = own, trace

    def __enter__(self) -> None:
        self._own.trace = self._trace

    def __exit__(self, *_: object) -> None:
        self._own.trace = None


class _Keep(SpanProcessor):
    """Every span also into the embedded store."""

    def __init__(self, kept: Kept, who: Who) -> None:
        self._kept, self._who = kept, who

    def on_end(self, span: ReadableSpan) -> None:
        if span.context.trace_flags & TraceFlags.SAMPLED:
            self._kept.add(_kept(span, self._who))


def _kept(span: ReadableSpan, who: Who) -> Span:
    began, ended = span.start_time or 0, span.end_time or 0
    return Span(
        f"{span.context.trace_id:032x}",
        f"{span.context.span_id:016x}",
        f"{span.parent.span_id:016x}" if span.parent else "",
        span.name,
        _KINDS.get(span.kind, "server" if span.kind is SpanKind.CONSUMER else "internal"),
        who.service,
        who.instance,
        who.release,
        began_at=began / _NS,
        took_s=(ended - began) / _NS,
        failed=span.status.status_code is StatusCode.ERROR,
        attributes=clipped(span.attributes or {}),
    )


def _batch(otlp: str) -> BatchSpanProcessor:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    url = urlsplit(otlp)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ConfigError(f"{otlp!r} is no address for spans", 'Write for instance "http://127.0.0.1:4318".')
    endpoint = otlp if url.path.strip("/") else f"{url.scheme}://{url.netloc}/v1/traces"
    for name in ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk.trace.export"):
        logging.getLogger(name).addFilter(_Seldom())
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_LIMIT_S)
    return BatchSpanProcessor(
        exporter, max_queue_size=QUEUE, schedule_delay_millis=EVERY_MS, max_export_batch_size=BATCH
    )


class _Seldom(logging.Filter):
    """Lets the first of many equal complaints pass, then every `TOLD_EVERY`th."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        seen = self._seen[record.msg] = self._seen.get(record.msg, 0) + 1
        return seen % TOLD_EVERY == 1


def instrument(library: str, provider: Any) -> None:
    """Record the calls of a library by OpenTelemetry's own instrumentation. Raises ConfigError when that, or the
    library, is missing."""
    package = f"opentelemetry-instrumentation-{library}"
    try:
        module = import_module(f"opentelemetry.instrumentation.{library}")
        instrumentors = [getattr(module, kind)() for kind in _INSTRUMENTORS[library]]
        for instrumentor in instrumentors:
            instrumentor.instrument(tracer_provider=provider)
    except ImportError as error:
        raise ConfigError(
            f"calls of {library} cannot be traced: {error}", f"pip install {package} {library}"
        ) from error
    if not all(instrumentor.is_instrumented_by_opentelemetry for instrumentor in instrumentors):
        raise ConfigError(
            f"calls of {library} cannot be traced: {package} does not know its version, see the log",
            f"Install a version of {library} that it supports, or take {library} out of `tracing.instrument`.",
        )


_INSTRUMENTORS = {
    "asyncpg": ("AsyncPGInstrumentor",),
    "grpc": ("GrpcAioInstrumentorClient", "GrpcInstrumentorClient"),
    "httpx": ("HTTPXClientInstrumentor",),
    "redis": ("RedisInstrumentor",),
    "sqlalchemy": ("SQLAlchemyInstrumentor",),
}

"""Which requests are recorded, what of them is kept, and how calls carry the trace on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry import trace as api

from gapless.core.errors import ConfigError
from gapless.core.tracing import TracePolicy
from gapless.observe.trace.context import Trace, parse, present
from gapless.observe.trace.recorder import Who, recorder
from gapless.observe.trace.settings import from_env, render
from gapless.observe.trace.spans import LONGEST_TEXT, MOST_ATTRIBUTES, Kept, Span
from gapless.server.master.spans import MOST, MOST_AT_ONCE, Spans
from gapless.service.trace_call import CallSpan, told
from gapless.service.tracing import Tracing
from gapless.testing import FakeWorld

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLED = f"00-{TRACE}-{SPAN}-01".encode()
QUIETLY = f"00-{TRACE}-{SPAN}-00".encode()
WHO = Who("orders", "1.2", "orders-1")
SPAN_ = Span(TRACE, SPAN, "", "GET /", "server", "orders", "orders-1", "1.2", began_at=1.0, took_s=0.5)


def tracing(world: FakeWorld | None = None, **settings: Any) -> Tracing:
    return Tracing(TracePolicy(**settings), world or FakeWorld(), WHO)


def test_a_caller_decides_for_those_it_calls() -> None:
    trace, parent = tracing(sample=0.0).begin(CALLED)
    assert (trace.trace_id, trace.sampled, parent) == (TRACE, True, SPAN)
    assert trace.span_id != SPAN
    assert tracing(sample=1.0).begin(QUIETLY) == (Trace(TRACE, SPAN, sampled=False), SPAN)


@pytest.mark.parametrize("header", [None, b"", b"nonsense"])
def test_without_a_caller_the_share_decides(header: bytes | None) -> None:
    assert not tracing(sample=0.0).begin(header)[0].sampled
    assert tracing(sample=1.0).begin(header)[0].sampled
    some = tracing(sample=0.5)
    assert 50 < sum(some.begin(header)[0].sampled for _ in range(200)) < 150


def test_a_recorded_request_and_its_calls_are_one_tree() -> None:
    world = FakeWorld()
    traced = tracing(world, sample=1.0)
    trace, parent = traced.begin(None)
    span = traced.open("GET", trace, parent)
    set_trace, set_recorder = present.set(trace), recorder.set(traced.recorder)
    call = CallSpan("inventory")
    carried = parse(call.header()[b"traceparent"])
    call.end("POST", "answered 201", failed=False, instance="inventory-2")
    span.end("GET /orders/{id}", failed=False, attributes={"url.path": "/orders/7"})
    present.reset(set_trace)
    recorder.reset(set_recorder)
    called, served = traced.kept.take()
    assert carried == Trace(trace.trace_id, called.span_id, sampled=True)
    assert (called.parent_id, called.kind, called.name) == (served.span_id, "client", "POST inventory")
    assert (served.parent_id, served.name, served.service) == ("", "GET /orders/{id}", "orders")
    assert served.attributes == {"url.path": "/orders/7"}


def test_a_request_that_is_not_recorded_still_tells_those_it_calls() -> None:
    set_trace = present.set(Trace(TRACE, SPAN, sampled=False))
    call = CallSpan("inventory")
    call.end("GET", "answered 200", failed=False, instance="i")
    assert call.header() == {b"traceparent": QUIETLY} == told()
    present.reset(set_trace)
    assert told() == {}


def test_what_was_slow_is_told_afterwards() -> None:
    world = FakeWorld()
    traced = tracing(world)
    traced.late("GET /slow", Trace(TRACE, SPAN, sampled=False), "", took_s=2.0, failed=True, attributes={})
    (span,) = traced.kept.take()
    assert (span.late, span.failed, span.took_s, span.began_at) == (True, True, 2.0, world.time() - 2.0)


def test_what_is_kept_is_bounded() -> None:
    kept = Kept(most=3)
    for _ in range(5):
        kept.add(SPAN_._replace(name="x" * 5_000, attributes={f"k{n}": "y" * 5_000 for n in range(100)}))
    assert kept.dropped == 2
    first, *rest = kept.take()
    assert len(rest) == 2
    assert len(first.name) == LONGEST_TEXT
    assert len(first.attributes) == MOST_ATTRIBUTES
    assert all(len(str(value)) == LONGEST_TEXT for value in first.attributes.values())
    assert kept.take() == []


def test_a_span_is_read_again_also_from_a_later_version() -> None:
    assert Span.from_plain({**SPAN_.plain(), "colour": "red"}) == SPAN_


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(0, 50))
def test_a_reader_gets_every_span_once_in_order(sizes: list[int], reads_every: int) -> None:
    spans, at, read, number = Spans(), 0, [], 0
    for turn, size in enumerate(sizes):
        spans.add(list(range(number, number + size)))
        number += size
        if reads_every and turn % reads_every == 0:
            told_ = spans.after(at)
            at, read = told_["last"], [*read, *told_["spans"]]
    read += spans.after(at)["spans"]
    assert read == list(range(number))


def test_a_late_reader_is_told_what_it_missed() -> None:
    spans = Spans()
    spans.add(list(range(MOST + 10)))
    told_ = spans.after(0)
    assert (told_["lost"], told_["spans"][0], len(told_["spans"])) == (10, 10, MOST_AT_ONCE)
    assert spans.after(10**9)["spans"][0] == 10  # the number of an earlier master


class TestSettings:
    def test_they_travel(self) -> None:
        settings = TracePolicy(sample=0.5, slow_s=2.0, otlp="http://x:1", instrument=("httpx",))
        assert from_env({"GAPLESS_TRACING": render(settings)}) == settings

    def test_those_of_opentelemetry_are_understood(self) -> None:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
        assert from_env(env) == TracePolicy(sample=0.25, otlp="http://c:4318")
        assert from_env({**env, "OTEL_SDK_DISABLED": "true"}).otlp == ""
        assert from_env({}) == TracePolicy()

    @pytest.mark.parametrize("text", ["2", "-1", "much", "nan"])
    def test_a_wrong_share_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match="OTEL_TRACES_SAMPLER_ARG"):
            from_env({"OTEL_TRACES_SAMPLER_ARG": text})

    @pytest.mark.parametrize("text", ["{", "[]", '{"instrument": 3}'])
    def test_a_broken_variable_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match="GAPLESS_TRACING"):
            from_env({"GAPLESS_TRACING": text})


class TestSdk:
    """With OpenTelemetry's SDK, spans of the application join in."""

    @pytest.fixture
    def traced(self, monkeypatch: pytest.MonkeyPatch) -> Tracing:
        from gapless.observe.trace import sdk

        monkeypatch.setattr(sdk.api, "set_tracer_provider", lambda provider: None)  # it can be set once only
        traced = tracing(sample=0.0)
        traced._recorder = sdk.SdkRecorder(TracePolicy(sample=0.0), traced.kept, WHO, traced._ids)
        return traced

    def test_the_tree_has_the_application_s_spans(self, traced: Tracing) -> None:
        trace, parent = traced.begin(CALLED)
        span = traced.open("GET", trace, parent)
        set_trace, set_recorder = present.set(trace), recorder.set(traced.recorder)
        tracer = api.get_tracer("app", tracer_provider=traced.recorder._provider)  # type: ignore[attr-defined]
        with tracer.start_as_current_span("think"):
            call = CallSpan("inventory")
            carried = parse(call.header()[b"traceparent"])
            call.end("GET", "answered 200", failed=False, instance="i")
        span.end("GET /", failed=True, attributes={})
        present.reset(set_trace)
        recorder.reset(set_recorder)
        called, thought, served = traced.kept.take()
        assert (served.trace_id, served.span_id, served.parent_id) == (TRACE, trace.span_id, SPAN)
        assert (thought.parent_id, called.parent_id) == (served.span_id, thought.span_id)
        assert carried == Trace(TRACE, called.span_id, sampled=True)
        assert served.failed
        assert api.get_current_span(otel_context.get_current()) is api.INVALID_SPAN

    def test_nothing_is_recorded_within_a_request_that_is_not(self, traced: Tracing) -> None:
        set_trace = present.set(Trace(TRACE, SPAN, sampled=False))
        tracer = api.get_tracer("app", tracer_provider=traced.recorder._provider)  # type: ignore[attr-defined]
        with tracer.start_as_current_span("think"):
            pass
        present.reset(set_trace)
        assert traced.kept.take() == []

    async def test_the_end_needs_no_collector_when_there_is_none(self, traced: Tracing) -> None:
        await traced.end()

    @pytest.mark.parametrize("otlp", ["collector:4318", "ftp://x", "http://"])
    def test_a_wrong_address_is_refused(self, otlp: str) -> None:
        with pytest.raises(ConfigError, match="no address for spans"):
            tracing(otlp=otlp).start()

    def test_a_library_that_is_not_there_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from gapless.observe.trace import sdk

        def missing(name: str) -> None:
            raise ImportError(f"no {name}")

        monkeypatch.setattr(sdk, "import_module", missing)
        with pytest.raises(ConfigError, match="calls of redis cannot be traced: no opentelemetry"):
            sdk.instrument("redis", None)

    def test_a_library_whose_version_is_not_known_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from gapless.observe.trace import sdk

        class Refusing:
            is_instrumented_by_opentelemetry = False

            def instrument(self, tracer_provider: object) -> None:
                """It only logs why it does nothing."""

        monkeypatch.setattr(sdk, "import_module", lambda name: SimpleNamespace(RedisInstrumentor=Refusing))
        with pytest.raises(ConfigError, match="does not know its version"):
            sdk.instrument("redis", None)

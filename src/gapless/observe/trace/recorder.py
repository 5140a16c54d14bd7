"""Records spans: of requests that are answered, and of calls that are made for them.

`recorder` is set while a request that is recorded is being served; whoever makes a call asks it for a `child`.
`PlainRecorder` needs nothing and knows Gapless's own spans; `sdk.SdkRecorder` stands on OpenTelemetry's SDK, so that
the spans of applications and libraries join in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from gapless.observe.trace.context import Ids, Trace
from gapless.observe.trace.spans import Kept, Span, Value


class Open(Protocol):
    """A span under way; `trace` is its own place in the trace, for those that it calls."""

    trace: Trace

    def end(self, name: str, *, failed: bool, attributes: dict[str, Value]) -> None:
        """Once."""
        ...


class Recorder(Protocol):
    def server(self, name: str, trace: Trace, parent_id: str) -> Open:
        """A request begins to be answered; `trace` has the ids that its span gets. `parent_id`: "" for a first one."""
        ...

    def child(self, name: str, within: Trace) -> Open:
        """A call begins, on behalf of a request."""
        ...

    def close(self, limit_s: float) -> Callable[[], None] | None:
        """Work to be done in a thread before the process ends, with its own limit; None when there is none."""
        ...


recorder: ContextVar[Recorder | None] = ContextVar("gapless_recorder", default=None)


class Who:
    """Whose spans they are."""

    __slots__ = ("instance", "release", "service")

    def __init__(self, service: str, release: str, instance: str) -> None:
        self.service, self.release, self.instance = service, release, instance


class PlainRecorder:
    """Into `Kept`, and nowhere else. `now` and `time` are a World's."""

    def __init__(self, kept: Kept, who: Who, ids: Ids, now: Callable[[], float], time: Callable[[], float]) -> None:
        self._kept, self._who, self._ids, self._now, self._time = kept, who, ids, now, time

    def server(self, name: str, trace: Trace, parent_id: str) -> Open:
        return _PlainSpan(self, "server", trace, parent_id)

    def child(self, name: str, within: Trace) -> Open:
        return _PlainSpan(self, "client", within._replace(span_id=self._ids.span_id()), within.span_id)

    def close(self, limit_s: float) -> Callable[[], None] | None:
        return None

    def ended(self, span: _PlainSpan, name: str, failed: bool, attributes: dict[str, Value]) -> None:
        self._kept.add(
            Span(
                span.trace.trace_id,
                span.trace.span_id,
                span.parent_id,
                name,
                span.kind,
                self._who.service,
                self._who.instance,
                self._who.release,
                began_at=span.began_at,
                took_s=self._now() - span.began,
                failed=failed,
                attributes=attributes,
            )
        )

    def times(self) -> tuple[float, float]:
        return self._now(), self._time()


class _PlainSpan:
    __slots__ = ("_recorder", "began", "began_at", "kind", "parent_id", "trace")

    def __init__(self, recorder: PlainRecorder, kind: str, trace: Trace, parent_id: str) -> None:
        self._recorder, self.kind, self.trace, self.parent_id = recorder, kind, trace, parent_id
        self.began, self.began_at = recorder.times()

    def end(self, name: str, *, failed: bool, attributes: dict[str, Any]) -> None:
        self._recorder.ended(self, name, failed, attributes)

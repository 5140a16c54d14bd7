"""The traces of late: recent ones, and for longer those that were slow or failed. In bounded memory, pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from gapless.observe.trace.spans import CHILD, Span

RECENT = 500
MARKED = 500
SPANS_EACH = 500
"""Of one trace; a loop that calls a thousand times is not drawn line by line."""
ORDINARY, SLOW, FAILED = "ordinary", "slow", "failed"


class Summary(NamedTuple):
    """A trace in one line. `name` and `service` are those of its first span; `took_s` from the first beginning to the
    last end; `late`: only parts of it are recorded; `left_out`: spans above the limit."""

    trace_id: str
    name: str
    service: str
    began_at: float
    took_s: float
    failed: bool
    slow: bool
    late: bool
    services: tuple[str, ...]
    spans: int
    left_out: int = 0

    def plain(self) -> dict[str, Any]:
        return {**self._asdict(), "services": list(self.services)}


class _Trace:
    __slots__ = ("kind", "left_out", "spans")

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.kind = ORDINARY
        self.left_out = 0


class TraceStore:
    """`slow_s`: from which on a request counts as slow."""

    def __init__(self, slow_s: float, recent: int = RECENT, marked: int = MARKED) -> None:
        self._slow_s = slow_s
        self._most = {ORDINARY: recent, SLOW: marked, FAILED: marked}
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self._counts = dict.fromkeys(self._most, 0)

    def __len__(self) -> int:
        return len(self._traces)

    def add(self, span: Span) -> None:
        """In any order, and the same one twice changes nothing."""
        trace = self._traces.get(span.trace_id)
        if trace is None:
            trace = self._traces[span.trace_id] = _Trace()
            self._counts[ORDINARY] += 1
        if span.span_id not in trace.spans and len(trace.spans) >= SPANS_EACH:
            trace.left_out += 1
            return
        trace.spans[span.span_id] = span
        self._mark(trace, span)
        self._make_room(trace.kind)

    def _mark(self, trace: _Trace, span: Span) -> None:
        kind = self._kind(span)
        if kind == ORDINARY or trace.kind in (kind, FAILED):
            return
        self._counts[trace.kind] -= 1
        self._counts[kind] += 1
        trace.kind = kind

    def _kind(self, span: Span) -> str:
        if span.failed:
            return FAILED
        return SLOW if span.kind == "server" and span.took_s >= self._slow_s else ORDINARY

    def _make_room(self, kind: str) -> None:
        """The oldest of its kind goes: a flood of ordinary ones does not wash away those that failed."""
        if self._counts[kind] <= self._most[kind]:
            return
        oldest = next(number for number, trace in self._traces.items() if trace.kind == kind)
        del self._traces[oldest]
        self._counts[kind] -= 1

    def find(self, *, service: str = "", only: str = "", limit: int = 50) -> list[Summary]:
        """The newest first; `only` "slow" or "failed"."""
        found = (_summary(number, trace, self._slow_s) for number, trace in self._traces.items())
        fitting = [one for one in found if _fits(one, service, only)]
        return sorted(fitting, key=lambda one: -one.began_at)[:limit]

    def get(self, trace_id: str) -> list[Span]:
        """Its spans by the time of their beginning; [] when it is not known. The first digits will do, when they are of
        one trace only."""
        known = [number for number in self._traces if number.startswith(trace_id)]
        if len(known) != 1 or not trace_id:
            return []
        return sorted(adopted(self._traces[known[0]].spans.values()), key=lambda span: (span.began_at, -span.took_s))


def _fits(summary: Summary, service: str, only: str) -> bool:
    if service and service not in summary.services:
        return False
    return {"slow": summary.slow, "failed": summary.failed}.get(only, True)


def _summary(trace_id: str, trace: _Trace, slow_s: float) -> Summary:
    spans = adopted(trace.spans.values())
    first = first_of(spans)
    began_at = min(span.began_at for span in spans)
    return Summary(
        trace_id=trace_id,
        name=first.name,
        service=first.service,
        began_at=began_at,
        took_s=max(span.began_at + span.took_s for span in spans) - began_at,
        failed=any(span.failed for span in spans),
        slow=any(span.kind == "server" and span.took_s >= slow_s for span in spans),
        late=any(span.late for span in spans),
        services=tuple(dict.fromkeys(span.service for span in sorted(spans, key=lambda span: span.began_at))),
        spans=len(spans),
        left_out=trace.left_out,
    )


def adopted(spans: Collection[Span]) -> list[Span]:
    """The spans, those that the gateway has led to below the gateway's: only the gateway knows that. In turn they know
    the template of the route, which the gateway's is named by."""
    known = {span.span_id: span for span in spans}
    parents = {span.attributes[CHILD]: span.span_id for span in spans if CHILD in span.attributes}
    found = []
    for span in spans:
        child = known.get(str(span.attributes.get(CHILD, "")))
        span = span._replace(name=child.name) if child else span
        found.append(span._replace(parent_id=parents[span.span_id]) if span.span_id in parents else span)
    return found


def first_of(spans: Sequence[Span]) -> Span:
    """The one that nobody here called; of several, the one that began first."""
    known = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_id not in known] or list(spans)
    return min(roots, key=lambda span: (span.began_at, -span.took_s))


class Row(NamedTuple):
    """A line of the waterfall: `depth` steps below the first span; `offset` and `width` are shares (0…1) of the whole
    time."""

    span: Span
    depth: int
    offset: float
    width: float


def waterfall(spans: Sequence[Span]) -> list[Row]:
    """Callers before those they call, siblings by time. Spans whose caller is not known stand at the top. Clocks of
    several machines may differ: a share is kept within the whole."""
    if not spans:
        return []
    began_at = min(span.began_at for span in spans)
    whole_s = max(max(span.began_at + span.took_s for span in spans) - began_at, 1e-9)
    known = {span.span_id for span in spans}
    below: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.began_at, -span.took_s)):
        parent = span.parent_id if span.parent_id in known and span.parent_id != span.span_id else ""
        below.setdefault(parent, []).append(span)
    rows: list[Row] = []
    stack = [(span, 0) for span in reversed(below.get("", []))]
    while stack:
        span, depth = stack.pop()
        offset = (span.began_at - began_at) / whole_s
        rows.append(Row(span, depth, offset, min(span.took_s / whole_s, 1 - offset)))
        stack += [(child, depth + 1) for child in reversed(below.get(span.span_id, []))]
    return rows

"""Traces: the recent, the slow and the failed ones in a list, and one as a waterfall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gapless.console.sight import Sight
from gapless.core.errors import UnknownName
from gapless.observe.trace.spans import Span
from gapless.observe.trace.store import FAILED, SLOW, Summary, first_of, waterfall

SHOWN = 40
COLOURS = 6
THINNEST = 0.4
"""Percent: what is shorter is still seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A span in the waterfall. `left` and `width`: 0…100 of the trace's duration; `colour` is the service's."""

    span: Span
    depth: int
    left: float
    width: float
    colour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceView:
    """One trace, its spans each below its caller."""

    id: str
    name: str
    at: float
    took_s: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracesView:
    traces: tuple[Summary, ...]
    chosen: TraceView | None
    only: str
    service: str
    services: tuple[str, ...]


async def traces_view(sight: Sight, params: Mapping[str, str]) -> TracesView:
    """`id`: the one that is drawn; `only`: slow or failed; `service`: those that passed it."""
    store = sight.plane.watching.traces.store
    only = params.get("only", "") if params.get("only") in (SLOW, FAILED) else ""
    service = params.get("service", "")
    chosen = None
    if wanted := params.get("id", ""):
        if not (spans := store.get(wanted)):
            raise UnknownName(f"no trace {wanted} is kept", "The list has those that are.")
        chosen = trace_view(spans)
    return TracesView(
        traces=tuple(store.find(service=service, only=only, limit=SHOWN)),
        chosen=chosen,
        only=only,
        service=service,
        services=tuple(s.name for s in sight.records.services()),
    )


def trace_view(spans: Sequence[Span]) -> TraceView:
    """`spans` of one trace, at least one, by their beginning."""
    services = list(dict.fromkeys(span.service for span in spans))
    first, began_at = first_of(spans), min(span.began_at for span in spans)
    rows = waterfall(spans)
    return TraceView(
        id=first.trace_id,
        name=f"{first.service} {first.name}",
        at=began_at,
        took_s=max(span.began_at + span.took_s for span in spans) - began_at,
        bars=tuple(
            _bar(row.span, row.depth, row.offset, row.width, services.index(row.span.service) % COLOURS) for row in rows
        ),
    )


def _bar(span: Span, depth: int, offset: float, width: float, colour: int) -> Bar:
    left = min(max(offset * 100, 0.0), 100 - THINNEST)
    return Bar(
        span=span,
        depth=depth,
        left=round(left, 2),
        width=round(min(max(width * 100, THINNEST), 100 - left), 2),
        colour=colour,
    )

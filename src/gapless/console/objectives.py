"""Objectives: what users are promised, and how fast what may fail is being spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gapless.console.budget import Budget, allowed_of, budget_of, burn_rate
from gapless.console.charts import Spark, spark
from gapless.console.lately import Slot, begun, together
from gapless.console.recorded import BURN_WINDOWS_S
from gapless.console.sight import Sight
from gapless.core.model import Service

NOW_S = 60.0
BURNING = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """How many times faster than permitted, over so many seconds; None: nothing was answered."""

    seconds: float
    rate: float | None
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    service: str
    allowed: float
    p99_s: float
    """Promised; 0: none is."""
    p99_now_s: float | None
    budget: Budget | None
    burns: tuple[Burn, ...]
    chart: Spark | None
    limit_y: float
    """Where the permitted error rate is in the chart."""
    public: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectivesView:
    promises: tuple[Promise, ...]


async def objectives_view(sight: Sight, _: Mapping[str, str]) -> ObjectivesView:
    services = sight.records.services()
    shares, counts = await sight.recorded.shares(sight.at), await sight.recorded.counts(sight.at)
    return ObjectivesView(
        promises=tuple(
            [promise(s, await sight.answered(s.name), shares, counts.get(s.name), sight.at) for s in services]
        )
    )


CHART = (640, 96)


def promise(
    service: Service,
    slots: Sequence[Slot],
    shares: Mapping[tuple[str, float], float],
    counts: tuple[float, float] | None,
    now_at: float,
) -> Promise:
    """`shares`: of errors, by service and seconds, as recorded. `counts`: requests and errors of the last 24 h."""
    objective = service.objective
    allowed = allowed_of(objective)
    errors = {NOW_S: together(slots, now_at, NOW_S).error_rate}
    errors |= {seconds: shares.get((service.name, seconds)) for seconds in BURN_WINDOWS_S}
    width, height = CHART
    chart = spark([slot.error_rate for slot in begun(slots)], width=width, height=height, floor=allowed * 1.25)
    top = max(chart.highest, allowed * 1.25) if chart else 1.0
    return Promise(
        service=service.name,
        allowed=allowed,
        budget=budget_of(objective, counts),
        p99_s=objective.p99_s,
        p99_now_s=together(slots, now_at, NOW_S).p99_s,
        burns=tuple(_burn(seconds, burn_rate(objective, rate)) for seconds, rate in errors.items()),
        chart=chart,
        limit_y=round(height - 2 - allowed / top * (height - 4), 1),
        public=bool(service.routes),
    )


def _burn(seconds: float, rate: float | None) -> Burn:
    if rate is None:
        return Burn(seconds=seconds, rate=None, tone="plain")
    return Burn(seconds=seconds, rate=rate, tone="bad" if rate > BURNING else "warn" if rate > BURNING / 2 else "good")

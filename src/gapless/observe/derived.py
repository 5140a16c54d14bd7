"""Rates and ratios of what a service counts, over recorded metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gapless.core.model import DerivedMetric
from gapless.core.ports import Selection, Series, Signals


def selections(
    metric: DerivedMetric, where: Mapping[str, str], by: tuple[str, ...] = (), over_s: float = 60.0
) -> tuple[Selection, ...]:
    """What is asked for: one rate, or two, of which the first is divided by the second."""
    names = (metric.metric, metric.to) if metric.to else (metric.metric,)
    return tuple(Selection(metric=name, where=where, by=by, of="rate", over_s=over_s) for name in names)


async def latest(
    signals: Signals,
    metric: DerivedMetric,
    where: Mapping[str, str],
    by: tuple[str, ...] = (),
    over_s: float = 60.0,
    at: float | None = None,
) -> Sequence[Series]:
    """As `Signals.latest`. A ratio of nothing to nothing is left out. Raises SignalsUnavailable."""
    found = [await signals.latest(asked, at) for asked in selections(metric, where, by, over_s)]
    return combined(*found)


async def series(
    signals: Signals,
    metric: DerivedMetric,
    where: Mapping[str, str],
    since_at: float,
    until_at: float,
    step_s: float,
    by: tuple[str, ...] = (),
    over_s: float = 60.0,
) -> Sequence[Series]:
    """As `Signals.series`. Raises SignalsUnavailable."""
    asked = selections(metric, where, by, over_s)
    return combined(*[await signals.series(one, since_at, until_at, step_s) for one in asked])


def combined(one: Sequence[Series], other: Sequence[Series] | None = None) -> Sequence[Series]:
    """The first alone, or divided by the second, label for label and moment for moment. What the first has no points
    of counts as 0: a counter appears with its first event. Pure."""
    if other is None:
        return one
    known = {tuple(sorted(series.labels.items())): dict(series.points) for series in one}
    found = []
    for series in other:
        mine = known.get(tuple(sorted(series.labels.items())), {})
        points = tuple((at, mine.get(at, 0.0) / value) for at, value in series.points if value > 0)
        if points:
            found.append(replace(series, points=points))
    return found

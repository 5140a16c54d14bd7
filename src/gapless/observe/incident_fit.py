"""When a series changed: a step or a bend at every moment, and how well each explains the points. Pure.

Each model is a line on one regressor (1 since τ, or the time since τ), fitted by least squares for all τ at once by
sums from the end, in time proportional to the points. The logarithm of the likelihood of a fit is -n/2 · ln(RSS/n)
(Gaussian noise of unknown size; Chen and Gupta, "Parametric Statistical Change Point Analysis", 2012, chapter 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_POINTS = 12
EDGE = 2
"""Points at both ends at which nothing is said to have changed: two points fit anything."""
TEMPER = 0.5
"""Neighbouring points are not independent: half of them say something new."""
SURE = 6.0
"""Gain from which a series has changed: e^6 times likelier than that it has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """For each moment how well "it rose from here on" explains the series, as a logarithm relative to the best moment
    (0; all others are below). `gain`: the best one's, relative to no change at all."""

    at: tuple[float, ...] = ()
    relative: tuple[float, ...] = ()
    gain: float = 0.0
    onset_at: float = 0.0

    @property
    def changed(self) -> bool:
        return self.gain >= SURE

    def near(self, since_at: float, until_at: float) -> float:
        """The best explanation by a rise between two moments; -inf when there is no point."""
        inside = [fit for at, fit in zip(self.at, self.relative, strict=True) if since_at <= at <= until_at]
        return max(inside, default=-math.inf)


def fit_rise(points: Sequence[tuple[float, float]]) -> Fit:
    """Where a series (seconds, value) rose. Only what rises counts: turn the sign of what is bad when it falls."""
    n = len(points)
    if n < LEAST_POINTS:
        return Fit()
    origin = points[0][0]
    times, values = [at - origin for at, _ in points], [value for _, value in points]
    total, squares = sum(values), sum(value * value for value in values)
    spread = squares - total * total / n
    floor = max(spread * 1e-9, 1e-12)
    logs = [-math.inf] * n
    ones = t_sum = tt_sum = y_sum = ty_sum = 0.0
    for index in range(n - 1, -1, -1):
        t, y = times[index], values[index]
        ones, t_sum, tt_sum, y_sum, ty_sum = ones + 1, t_sum + t, tt_sum + t * t, y_sum + y, ty_sum + t * y
        if not EDGE <= index < n - EDGE:
            continue
        step = _explained(ones, ones, y_sum, n, total)
        x, xx = t_sum - t * ones, tt_sum - 2 * t * t_sum + t * t * ones
        bend = _explained(x, xx, ty_sum - t * y_sum, n, total)
        logs[index] = -n / 2 * math.log(max(spread - max(step, bend), floor) / max(spread, floor))
    best = max(logs)
    onset = times[logs.index(best)] + origin
    relative = tuple(TEMPER * (log - best) for log in logs)
    return Fit(at=tuple(at for at, _ in points), relative=relative, gain=TEMPER * best, onset_at=onset)


def _explained(x: float, xx: float, xy: float, n: int, y: float) -> float:
    """By how much a regressor lowers the sum of squares; 0 when the series falls along it."""
    var, cov = xx - x * x / n, xy - x * y / n
    return cov * cov / var if var > 1e-9 and cov > 0 else 0.0

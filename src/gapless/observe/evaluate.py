"""Answers to a `Selection` from recorded points: pure, and the same as Prometheus would give for `promql(selection)`.

A `Track` is one series as it was scraped. A histogram is as many tracks as it has buckets (`NAME_bucket` with the label
`le`), and two more: `NAME_sum` and `NAME_count`.

Source: Prometheus, promql/functions.go (`extrapolatedRate`) and promql/quantile.go (`bucketQuantile`).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gapless.core.ports import Selection, Series

NEARLY = 1.1
"""How many usual distances a window's end may be from the nearest point to count as covered to the end."""


@dataclass(frozen=True, slots=True)
class Track:
    """A series as scraped: its labels, and when (seconds since the epoch, rising) it had which value."""

    labels: Mapping[str, str]
    at: Sequence[float]
    values: Sequence[float]


Tracks = Callable[[str], Iterable[Track]]
"""The tracks of a metric's name, of which those that `where` excludes may be missing."""
Key = tuple[tuple[str, str], ...]


def moments(since_at: float, until_at: float, step_s: float) -> list[float]:
    """Where points are asked for. Raises ValueError for a step that is not positive."""
    if step_s <= 0:
        raise ValueError(f"a step of {step_s} s leads nowhere")
    return [since_at + n * step_s for n in range(math.floor((until_at - since_at) / step_s + 1e-9) + 1)]


def evaluate(selection: Selection, tracks: Tracks, at: Sequence[float]) -> list[Series]:
    """One series for each combination of the labels in `by`, sorted by them; points only where there is an answer."""
    rows = _rows(selection, tracks, at)
    found = []
    for key in sorted(rows):
        points = tuple((t, v) for t, v in zip(at, rows[key], strict=True) if v is not None and not math.isnan(v))
        if points:
            found.append(Series(labels=dict(key), points=points))
    return found


Row = list[float | None]


def _rows(selection: Selection, tracks: Tracks, at: Sequence[float]) -> dict[Key, Row]:
    name, over_s = selection.metric, selection.over_s
    if selection.of in ("value", "max"):
        put = max if selection.of == "max" else _plus
        return _together(selection, tracks(name), at, lambda track, t: last(track, t, over_s), put)
    if selection.of == "quantile":
        return _quantiles(selection, tracks(f"{name}_bucket"), at)
    if selection.of == "mean":
        sums = _together(selection, tracks(f"{name}_sum"), at, lambda track, t: rate(track, t, over_s))
        counts = _together(selection, tracks(f"{name}_count"), at, lambda track, t: rate(track, t, over_s))
        return {
            key: [_ratio(a, b) for a, b in zip(row, counts.get(key, row), strict=True)] for key, row in sums.items()
        }
    counted = name if name.endswith("_total") else f"{name}_count"
    grown = rate if selection.of == "rate" else increase
    return _together(selection, tracks(counted), at, lambda track, t: grown(track, t, over_s))


def _plus(one: float, other: float) -> float:
    return one + other


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _together(
    selection: Selection,
    tracks: Iterable[Track],
    at: Sequence[float],
    of: Callable[[Track, float], float | None],
    put: Callable[[float, float], float] = _plus,
    by: tuple[str, ...] = (),
) -> dict[Key, Row]:
    """Each track's value at each moment, put together by labels."""
    rows: dict[Key, Row] = {}
    for track in tracks:
        if not fits(selection.where, track.labels):
            continue
        key = tuple((name, value) for name in (*selection.by, *by) if (value := track.labels.get(name, "")))
        row = rows.setdefault(key, [None] * len(at))
        for index, moment in enumerate(at):
            found, known = of(track, moment), row[index]
            if found is not None:
                row[index] = found if known is None else put(known, found)
    return rows


def fits(where: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a track has these labels."""
    return all(labels.get(name, "") == value for name, value in where.items())


def last(track: Track, at: float, over_s: float) -> float | None:
    """The last value that is not older than `over_s`."""
    index = bisect_right(track.at, at) - 1
    return track.values[index] if index >= 0 and track.at[index] >= at - over_s else None


def rate(track: Track, at: float, over_s: float) -> float | None:
    grown = increase(track, at, over_s)
    return None if grown is None else grown / over_s


def increase(track: Track, at: float, over_s: float) -> float | None:
    """By how much a counter has risen in the `over_s` before `at`; None with fewer than two points. A value below the
    one before means that it began again at zero. The points hardly ever lie at the window's ends: the slope is carried
    on to them, but no further than half a distance beyond where the counter seems to have begun or ended."""
    low, high = bisect_left(track.at, at - over_s), bisect_right(track.at, at)
    if high - low < 2:
        return None
    values = track.values[low:high]
    grown = values[-1] - values[0] + sum(one for one, then in pairwise(values) if then < one)
    first_at, last_at = track.at[low], track.at[high - 1]
    return grown * _stretch(first_at - (at - over_s), at - last_at, last_at - first_at, high - low, values[0], grown)


def _stretch(before_s: float, after_s: float, lasted_s: float, points: int, first: float, grown: float) -> float:
    """By what the growth between the first and the last point is multiplied."""
    distance_s = lasted_s / (points - 1)
    if grown > 0 and first >= 0:  # it cannot have been below zero: there it began
        before_s = min(before_s, lasted_s * (first / grown))
    total_s = lasted_s
    for gap_s in (before_s, after_s):
        total_s += gap_s if gap_s < NEARLY * distance_s else distance_s / 2
    return total_s / lasted_s


def _quantiles(selection: Selection, tracks: Iterable[Track], at: Sequence[float]) -> dict[Key, Row]:
    """By labels, from the rates of the buckets."""
    buckets = _together(selection, tracks, at, lambda track, t: rate(track, t, selection.over_s), by=("le",))
    groups: dict[Key, list[tuple[float, Row]]] = {}
    for key, row in buckets.items():
        bound = next((value for name, value in key if name == "le"), "")
        if bound:
            rest = tuple(pair for pair in key if pair[0] != "le")
            groups.setdefault(rest, []).append((float(bound), row))
    found: dict[Key, Row] = {}
    for rest, rows in groups.items():
        rows.sort(key=lambda one: one[0])
        found[rest] = [quantile(selection.q, [(bound, row[n]) for bound, row in rows]) for n in range(len(at))]
    return found


def quantile(q: float, buckets: Sequence[tuple[float, float | None]]) -> float | None:
    """From cumulative counts by upper bound, rising, the last bound infinite; linear within a bucket. None when nothing
    was observed. Above every finite bound, the largest of them."""
    known = [(bound, count) for bound, count in buckets if count is not None]
    if len(known) < 2 or not math.isinf(known[-1][0]) or not known[-1][1]:
        return None
    rank = q * known[-1][1]
    index = next(n for n, (_, count) in enumerate(known) if count >= rank or n == len(known) - 1)
    bound, count = known[index]
    if math.isinf(bound):
        return known[-2][0]
    if index == 0:
        return bound if bound <= 0 else bound * rank / count if count else 0.0
    start, below = known[index - 1]
    return start + (bound - start) * (rank - below) / (count - below) if count > below else bound

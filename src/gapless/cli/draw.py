"""Small charts of text. Pure: numbers in, lines out; colour is for who prints them.

A chart has a scale on its left, and columns of time. Several points that fall into one column show their largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]
"""(moment, value), oldest first."""

LEFT = 9
"""Letters of the scale."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What lines are drawn with."""

    canary: str = "●"
    stable: str = "·"
    limit: str = "─"
    full: str = "█"
    steps: str = "▁▂▃▄▅▆▇█"
    gap: str = "…"


ASCII = Marks(canary="#", stable=".", limit="-", full="#", steps="_.-=+*%#", gap="...")


def chart(
    lines: Mapping[str, Points],
    limit: float,
    width: int,
    *,
    height: int = 5,
    marks: Mapping[str, str],
    limit_mark: str,
    text: Callable[[float], str],
    scale: Callable[[float], float] = float,
) -> list[str]:
    """Rows from the top. `lines`: drawn in this order, later ones over earlier ones; `marks`: the letter of each;
    `limit`: drawn across, unless 0; `text`: how a value is written on the left; `scale`: what heights are even in."""
    columns = max(width - LEFT, 10)
    moments = [at for points in lines.values() for at, _ in points]
    if not moments:
        return []
    since_at, until_at = min(moments), max(moments)
    buckets = {name: _columns(points, since_at, until_at, columns) for name, points in lines.items()}
    values = [value for row in buckets.values() for value in row if value is not None]
    top = max([scale(limit) * 1.2, *(scale(value) for value in values)]) or 1.0
    low = min([0.0, *(scale(value) for value in values)])
    grid = [[" "] * columns for _ in range(height)]
    limit_row = _row(scale(limit), low, top, height)
    if limit:
        grid[limit_row] = [limit_mark] * columns
    for name, row in buckets.items():
        for column, value in enumerate(row):
            if value is not None:
                grid[_row(scale(value), low, top, height)][column] = marks[name]
    labels = _labels(height, limit_row if limit else -1, limit, max(values, default=0.0), text)
    return [f"{label:>{LEFT - 1}} {''.join(row)}".rstrip() for label, row in zip(labels, grid, strict=True)]


def _columns(points: Points, since_at: float, until_at: float, columns: int) -> list[float | None]:
    row: list[float | None] = [None] * columns
    for at, value in points:
        place = _column(at, since_at, until_at, columns)
        row[place] = max(value, row[place] or value)
    return row


def _column(at: float, since_at: float, until_at: float, columns: int) -> int:
    if until_at <= since_at:
        return 0
    return min(int((at - since_at) / (until_at - since_at) * columns), columns - 1)


def _row(value: float, low: float, top: float, height: int) -> int:
    part = (value - low) / (top - low) if top > low else 0.0
    return height - 1 - min(max(round(part * (height - 1)), 0), height - 1)


def _labels(height: int, limit_row: int, limit: float, largest: float, text: Callable[[float], str]) -> list[str]:
    labels = [""] * height
    labels[0] = text(largest) if largest >= limit else ""
    labels[-1] = text(0.0)
    if limit_row >= 0:
        labels[limit_row] = text(limit)
    return labels


def strip(points: Points, width: int, steps: str, most: float = 1.0) -> str:
    """One row: how high a value was over time, of `most`. A column without a point keeps the last one's height."""
    columns = max(width - LEFT, 10)
    if not points:
        return ""
    since_at, until_at = points[0][0], points[-1][0]
    row = _columns(points, since_at, until_at, columns)
    last, letters = 0.0, []
    for value in row:
        last = last if value is None else value
        letters.append(steps[min(int(last / most * len(steps)), len(steps) - 1)])
    return "".join(letters)


def meter(value: float, limit: float, width: int, full: str) -> str:
    """A bar on a logarithmic scale from 1 to the limit: full when it is reached."""
    columns = max(min(width, 40), 10)
    part = math.log(max(value, 1.0)) / math.log(limit) if limit > 1 else 0.0
    filled = min(round(part * columns), columns)
    return f"[{full * filled}{' ' * (columns - filled)}]"


def fitted(text: str, width: int, gap: str) -> str:
    """Not longer than the terminal is wide."""
    return text if len(text) <= width else text[: max(width - len(gap), 1)] + gap

"""Small charts as paths of SVG: pure. The browser draws what it is given, without a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Value = float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spark:
    """A line without axes. `line` and `area` are path data; (`x`, `y`) is its end, where a dot sits."""

    width: int
    height: int
    line: str
    area: str
    x: float
    y: float
    lowest: float
    highest: float


def spark(values: Sequence[Value], *, width: int = 112, height: int = 28, floor: float = 0.0) -> Spark | None:
    """`values` oldest first; None is a gap. `floor`: the least that the top of the chart stands for, so that noise
    around nothing looks like nothing. None without two values."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    top, inset = max(*known, floor) or 1.0, 2.0
    across = (width - 2 * inset) / (len(values) - 1)
    points = [
        None
        if value is None
        else (round(inset + place * across, 1), round(height - inset - value / top * (height - 2 * inset), 1))
        for place, value in enumerate(values)
    ]
    runs = _runs(points)
    last = runs[-1][-1]
    return Spark(
        width=width,
        height=height,
        line=" ".join(_path(run) for run in runs),
        area=" ".join(f"{_path(run)}L{run[-1][0]:g},{height}L{run[0][0]:g},{height}Z" for run in runs),
        x=last[0],
        y=last[1],
        lowest=min(known),
        highest=max(known),
    )


def _runs(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is not None:
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _path(run: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in run)


def on_log_scale(value: float, lowest: float, highest: float) -> float:
    """The place (0…1) of a value between two others on a logarithmic scale; outside of them at the ends."""
    if value <= lowest:
        return 0.0
    return min(math.log(value / lowest) / math.log(highest / lowest), 1.0)

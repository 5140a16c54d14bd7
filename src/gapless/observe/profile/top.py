"""Profiles as text: where most of it was."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from gapless.observe.profile.values import Frame, Profile

SCALES = {"nanoseconds": ((1e9, "s"), (1e6, "ms")), "bytes": ((1e6, "MB"), (1e3, "kB")), "count": ()}
"""Of each unit, the largest first that a total fills."""


class Row(NamedTuple):
    """`flat`: found in the place itself; `cum`: also in what it called. In the measure's own unit."""

    place: Frame
    flat: int
    cum: int


def rows(profile: Profile, index: int = -1) -> list[Row]:
    """One for each function, by what was found in it, the most first. A function counts once in a stack, however often
    it stands there. Of a function's lines, the one where most of it was found stands for it."""
    flat: Counter[tuple[str, str]] = Counter()
    cum: Counter[tuple[str, str]] = Counter()
    lines: dict[tuple[str, str], Counter[int]] = {}
    for stack, values in profile.samples.items():
        value = values[index]
        for depth, frame in enumerate(stack):
            key = (frame.name, frame.file)
            lines.setdefault(key, Counter())[frame.line] += value
            if not depth:
                flat[key] += value
        for key in {(frame.name, frame.file) for frame in stack}:
            cum[key] += value
    found = [Row(Frame(*key, lines[key].most_common(1)[0][0]), flat[key], cum[key]) for key in cum]
    return sorted(found, key=lambda row: (-row.flat, -row.cum, row.place))


def top(profile: Profile, most: int = 20, index: int = -1) -> list[str]:
    """A table of the first `most` functions, and what is beyond them."""
    total = profile.total(index)
    kind, unit = profile.measures[index]
    divisor, unit = next(
        (scale for scale in SCALES.get(unit, ()) if total >= scale[0]), (1, "" if unit == "count" else unit)
    )
    head = f"{amount(total / divisor)} {unit}".strip() + f" of {kind} in {profile.took_s:.1f} s"
    if not total:
        return [head, "Nothing was found: nothing ran meanwhile."]
    lines = [head, f"{'flat':>10} {'':>6} {'cum':>10} {'':>6}"]
    for row in rows(profile, index)[:most]:
        flat = f"{amount(row.flat / divisor):>10} {row.flat / total:>6.1%}"
        lines.append(f"{flat} {amount(row.cum / divisor):>10} {row.cum / total:>6.1%}  {place(row.place)}")
    return lines


def amount(value: float) -> str:
    return f"{value:.3f}" if value != int(value) else f"{value:.0f}"


def place(frame: Frame) -> str:
    where = f"{frame.file}:{frame.line}" if frame.line else frame.file
    return f"{frame.name}  {where}" if where else frame.name


def collapsed(profile: Profile, index: int = -1) -> str:
    """One line for each stack, outermost first, for flame graph programs."""
    lines = (f"{';'.join(f.name for f in reversed(stack))} {v[index]}" for stack, v in profile.samples.items())
    return "\n".join(lines) + "\n"

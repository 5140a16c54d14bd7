"""A profile: stacks, and how much of each measure was found at them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gapless.core.errors import GaplessError


class Frame(NamedTuple):
    """A place in the code. `line` is where it was; 0 for what has no lines."""

    name: str
    file: str = ""
    line: int = 0


Stack = tuple[Frame, ...]
"""Innermost first."""


class Measure(NamedTuple):
    """What the numbers are: `cpu` in `nanoseconds`, `objects` in `count`."""

    kind: str
    unit: str


class Profile(NamedTuple):
    """`samples[stack][i]` is the amount of `measures[i]`. The last measure is the one that is looked at first."""

    measures: tuple[Measure, ...]
    samples: Mapping[Stack, tuple[int, ...]]
    at: float = 0.0
    """Seconds since the epoch, when it began."""
    took_s: float = 0.0
    note: str = ""
    """What a reader must know: where the stacks come from, what was left out."""

    def total(self, index: int = -1) -> int:
        return sum(values[index] for values in self.samples.values())


def merged(profiles: Iterable[Profile]) -> Profile:
    """Several workers' profiles as one. Raises GaplessError when there is none, or when they measure different
    things."""
    profiles = list(profiles)
    if not profiles:
        raise GaplessError("no worker has answered", "`gapless profile --kind stuck` looks at them from outside.")
    first, *others = profiles
    if any(other.measures != first.measures for other in others):
        raise GaplessError("the workers measured different things", "They run different versions: reload the service.")
    samples: dict[Stack, tuple[int, ...]] = {}
    for profile in profiles:
        for stack, values in profile.samples.items():
            known = samples.get(stack)
            samples[stack] = values if known is None else tuple(a + b for a, b in zip(known, values, strict=True))
    notes = dict.fromkeys(profile.note for profile in profiles if profile.note)
    return first._replace(samples=samples, took_s=max(p.took_s for p in profiles), note="; ".join(notes))


def grown(before: Profile, after: Profile) -> Profile:
    """What is more than before, stack by stack; what has shrunk is left out."""
    zero = (0,) * len(after.measures)
    more = {
        stack: tuple(max(now - then, 0) for now, then in zip(values, before.samples.get(stack, zero), strict=True))
        for stack, values in after.samples.items()
    }
    samples = {stack: values for stack, values in more.items() if any(values)}
    return after._replace(samples=samples, took_s=after.at - before.at)


def plain(profile: Profile) -> dict[str, Any]:
    """As JSON can hold it, each frame once."""
    places: dict[Frame, int] = {}
    stacks = [
        [[places.setdefault(frame, len(places)) for frame in stack], list(values)]
        for stack, values in profile.samples.items()
    ]
    return {
        "measures": [list(measure) for measure in profile.measures],
        "frames": [list(frame) for frame in places],
        "stacks": stacks,
        "at": profile.at,
        "took_s": profile.took_s,
        "note": profile.note,
    }


def from_plain(value: Mapping[str, Any]) -> Profile:
    """The profile again."""
    frames = [Frame(*frame) for frame in value["frames"]]
    return Profile(
        measures=tuple(Measure(*measure) for measure in value["measures"]),
        samples={tuple(frames[i] for i in stack): tuple(values) for stack, values in value["stacks"]},
        at=value["at"],
        took_s=value["took_s"],
        note=value["note"],
    )

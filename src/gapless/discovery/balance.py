"""Which instance to ask: a pure pick over a frozen view of what a caller has seen of each.

Whatever the rule, first come those that may be asked at all. Ejected ones are left out until their probe is due. When
more than `PANIC_SHARE` of them are failing the fault is hardly theirs, and asking the few others would break these too:
then only those that nobody can reach are left out. The rules (`discovery.balancers`) pick among the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from gapless.discovery.load import Load, due

PANIC_SHARE = 0.5
PROBE_SHARE = 0.05
"""Of ten requests a second, five are probes within tau, if so many are due; and one in twenty is the most that they
cost."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """All that a pick depends on. Sequences have an entry per instance; empty ones stand for equal weights, no names,
    no zones. `one`, `other` and `third` are dice in [0, 1)."""

    loads: Sequence[Load]
    now: float
    one: float = 0.0
    other: float = 0.0
    third: float = 0.0
    turn: int = 0
    """How many picks this caller made before."""
    weights: Sequence[float] = ()
    """Relative capacities, all above 0."""
    names: Sequence[bytes] = ()
    """What is hashed: stable over restarts of the caller."""
    zones: Sequence[str] = ()
    zone: str = ""
    """The caller's own."""
    by_zone: tuple[Sequence[int], Sequence[int]] | None = None
    """Of all instances, those in the caller's zone and the others, where that was worked out beforehand."""
    key: str = ""
    """What the request belongs to, for affinity."""

    def weight(self, index: int) -> float:
        return self.weights[index] if self.weights else 1.0


class Standing(NamedTuple):
    """Indexes of those that may be asked, and among them those that were ejected and whose probe is due."""

    among: Sequence[int]
    probes: Sequence[int]


Rule = Callable[[View, Sequence[int]], int]
"""Picks one of the given indexes, of which there are at least two."""


def choose(view: View, rule: Rule, standing: Standing | None = None) -> int:
    """The index of the instance to ask. `standing` is who may be asked, when that is known. Raises ValueError when
    there is nobody.

    A share of the picks goes to those whose probe is due, whatever the rule: among a thousand it would hardly ever come
    upon one of them, and only real requests can tell that it has recovered."""
    if not view.loads:
        raise ValueError("nobody to pick from")
    among, probes = standing or standing_of(view.loads, view.now)
    if len(among) == 1:
        return among[0]
    if probes and view.third < PROBE_SHARE:
        return probes[int(view.third / PROBE_SHARE * len(probes))]
    return rule(view, among)


def standing_of(loads: Sequence[Load], now: float) -> Standing:
    among = candidates(loads, now)
    return Standing(among, [index for index in among if loads[index].ejected and due(loads[index], now)])


def candidates(loads: Sequence[Load], now: float) -> Sequence[int]:
    """Indexes of those that may be asked; all of them when nobody seems reachable."""
    fit = [i for i, load in enumerate(loads) if not load.ejected or due(load, now)]
    if enough(len(fit), len(loads)):
        return fit
    reachable = [i for i, load in enumerate(loads) if not load.refused or due(load, now)]
    return reachable or list(range(len(loads)))


def enough(fit: int, of: int) -> bool:
    """Are so many left that the others are to blame?"""
    return fit >= (1.0 - PANIC_SHARE) * of

"""Which release answers which buckets, as every data plane is told it."""

from __future__ import annotations

from gapless.core.model import BUCKETS, ServiceTable, Split

Shares = tuple[tuple[str, int], ...]
"""(release, buckets) in the order of the buckets; the buckets sum to 10,000."""


def releases(table: ServiceTable) -> tuple[str, ...]:
    """Every release that the table names, sorted."""
    named = {release for release, _ in table.split.weights}
    return tuple(sorted(named | {table.split.stable} | {e.release for e in table.endpoints}))


def reachable(table: ServiceTable) -> frozenset[str]:
    """The releases with an instance that may be asked now."""
    return frozenset(e.release for e in table.endpoints if not e.draining)


def shares(split: Split) -> Shares:
    """The split as ranges of buckets that say the same as `Split.release_of`: what the weights leave is the stable
    release's, what goes beyond 10,000 is nobody's."""
    found: list[tuple[str, int]] = []
    left = BUCKETS
    for release, weight in (*split.weights, (split.stable, BUCKETS)):
        taken = min(weight, left)
        left -= taken
        if taken:
            found.append((release, taken))
    return _merged(found)


def answered_shares(split: Split, alive: frozenset[str]) -> Shares:
    """The split, but what belongs to a release that nobody can ask goes to one that answers, the stable one if it does:
    no request is lost that a healthy release could have answered. Other users keep their buckets."""
    if not alive:
        return shares(split)
    stand_in = split.stable if split.stable in alive else min(alive)
    return _merged([(release if release in alive else stand_in, weight) for release, weight in shares(split)])


def standing_shares(split: Split, alive: frozenset[str]) -> Shares:
    """`answered_shares` with a place for every release that can be asked, also for one that has nothing: while a share
    moves between nothing and all, the places stay. A name that would stand in two of them is no place: then only those
    that have something are left."""
    if len(alive) < 2:
        return answered_shares(split, alive)
    stand_in = split.stable if split.stable in alive else min(alive)
    found, left = list[tuple[str, int]](), BUCKETS
    for release, weight in (*split.weights, (split.stable, BUCKETS)):
        found.append((release if release in alive else stand_in, min(weight, left)))
        left -= found[-1][1]
    merged = _merged([*((release, 0) for release in sorted(alive - {name for name, _ in found})), *found])
    names = [release for release, _ in merged]
    return merged if len(names) == len(set(names)) else answered_shares(split, alive)


def _merged(parts: list[tuple[str, int]]) -> Shares:
    merged: list[tuple[str, int]] = []
    for release, weight in parts:
        if merged and merged[-1][0] == release:
            merged[-1] = (release, merged[-1][1] + weight)
        else:
            merged.append((release, weight))
    return tuple(merged)

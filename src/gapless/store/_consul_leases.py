"""When leases in Consul lapse: each process that uses the store looks at all of them, by its own clock.

Consul's sessions would not do. They live at least 10 s and up to twice as long as they were asked to, and when one ends
Consul removes its keys by itself: no watch of ours would be told, at no revision. So a lease is a record that its
holder rewrites. Whoever sees it unchanged for its time to live ends it as any other write is done, and only if it is
still unchanged then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gapless.store._consul_wire import Lease

LONGEST_LOOK_S = 1.0
SHORTEST_LOOK_S = 0.1
STALL_S = 1.0
"""Beyond the look that was due: we were stopped, or Consul was away. Others may not have been able to renew either, so
every lease starts its time anew."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A lease as it was first seen like this: at which index, and when by our clock."""

    index: int
    at: float


Beats = Mapping[str, Beat]


def looked(
    before: Beats, records: Mapping[str, tuple[int, Lease]], now: float, since: float
) -> tuple[Beats, dict[str, int]]:
    """(what is remembered, index of each record) → what to remember now, and the leases that have lapsed with the index
    they were seen at. `since`: seconds since the look before."""
    if since > look_every_s(records) + STALL_S:
        before = {}
    beats = {
        lease: seen if (seen := before.get(lease)) and seen.index == index else Beat(index, now)
        for lease, (index, _) in records.items()
    }
    lapsed = {
        lease: index
        for lease, (index, record) in records.items()
        if record.ended or now - beats[lease].at >= record.ttl_s
    }
    return beats, lapsed


def look_every_s(records: Mapping[str, tuple[int, Lease]]) -> float:
    """Often enough for the shortest of them."""
    shortest = min((record.ttl_s for _, record in records.values()), default=LONGEST_LOOK_S * 4)
    return min(max(shortest / 4, SHORTEST_LOOK_S), LONGEST_LOOK_S)

"""What releases answered, counted."""

from __future__ import annotations

from dataclasses import dataclass

HISTOGRAM_BOUNDS_S: tuple[float, ...] = tuple(0.0001 * 1.25**i for i in range(62))
"""Upper bounds of the latency buckets, 100 µs … 82 s, each 25 % above the one before: any quantile is right to 25 %."""


WARM_UP_S = 3.0
WARM_UP_REQUESTS = 20
"""How long an instance answers, and how often, before its latency counts: caches and connections are cold at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one release of a service answered between two moments. `latency[i]` counts answers ≤ HISTOGRAM_BOUNDS_S[i]
    and above the bound before; the last entry counts those above every bound. `failed` names the user of each error in
    order of arrival ("" where none is known). Instances that have only begun are left out of the latencies, whichever
    release they are of: what is compared is releases, and not ages."""

    requests: int = 0
    errors: int = 0
    failed: tuple[str, ...] = ()
    latency: tuple[int, ...] = ()
    tail: tuple[tuple[str, float], ...] = ()
    """User and seconds of the slowest answers, at least the slowest 2 %; empty when nobody keeps them. With them a slow
    user counts once, without them each slow answer counts."""

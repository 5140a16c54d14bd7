"""The figures of guards as metrics.

They are read before each snapshot from counters that are always on, so that nothing is added to a call, and no event is
made for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gapless.observe.metrics import Meter
from gapless.resilience.guard import Guard
from gapless.resilience.pool_figures import HasFigures

OUTCOMES = ("failed", "rejected", "expired", "cancelled")
COUNTED = frozenset({"calls", "slow", "hits", "misses", "waits", "timeouts"})
"""Counters whose names do not end in what was done."""


def observe_guards(meter: Meter, guards: Iterable[Guard]) -> None:
    """Have the meter show these guards: `guards` may be a collection that grows (`Guards`).

    - `gapless_guard_calls_total{guard,outcome}`: ok, failed, rejected, expired, cancelled; those under way are ok
      until they end otherwise.
    - `gapless_guard_policy_events_total{guard,policy,event}`: what each policy has counted.
    - `gapless_guard_policy_value{guard,policy,name}`: what it holds now (places taken, the adaptive limit …).
    - `gapless_guard_breaker_state{guard,policy,state}`: 1 for the present state.
    """
    families = _Families(meter)

    def read() -> None:
        for guard in guards:
            families.take(guard.name, guard.statistics())

    meter.before_samples(read)


def observe_pools(meter: Meter, pools: Iterable[HasFigures]) -> None:
    """Have the meter show these pools, by the names of `PoolFigures.metrics` (`pool_oldest_checkout_age_seconds` …)
    with the label `pool`."""

    def read() -> None:
        for pool in pools:
            found = pool.statistics()
            for name, value in found.metrics().items():
                total = name.endswith("_total")
                family = meter.counter if total else meter.gauge
                family(name.removesuffix("_total"), "Of connection pools", ("pool",)).labels(found.name).set(value)

    meter.before_samples(read)


class _Families:
    def __init__(self, meter: Meter) -> None:
        self._calls = meter.counter("gapless_guard_calls", "Calls by how they ended", ("guard", "outcome"))
        labels = ("guard", "policy", "event")
        self._events = meter.counter("gapless_guard_policy_events", "What policies have counted", labels)
        self._values = meter.gauge("gapless_guard_policy_value", "What policies hold", ("guard", "policy", "name"))
        labels = ("guard", "policy", "state")
        self._states = meter.gauge("gapless_guard_breaker_state", "1 for the breaker's present state", labels)

    def take(self, guard: str, whole: Mapping[str, Any]) -> None:
        ended = {outcome: whole[outcome] for outcome in OUTCOMES}
        for outcome, count in {"ok": whole["calls"] - sum(ended.values()), **ended}.items():
            self._calls.labels(guard, outcome).set(float(count))
        for policy, found in whole["policies"].items():
            for name, value in found.items():
                self._take_one(guard, policy, name, value)

    def _take_one(self, guard: str, policy: str, name: str, value: Any) -> None:
        if name == "state":
            for labels, child in self._states.children.items():
                if labels[:2] == (guard, policy):
                    child.set(0.0)
            self._states.labels(guard, policy, str(value)).set(1.0)
        elif isinstance(value, (int, float)):
            family = self._events if is_counter(name) else self._values
            family.labels(guard, policy, name).set(float(value))


def is_counter(name: str) -> bool:
    """By the convention of `Layer.statistics`: counters are named after what was done."""
    return name in COUNTED or (name.endswith("ed") and not name.startswith("window_"))

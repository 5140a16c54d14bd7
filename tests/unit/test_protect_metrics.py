"""The figures of guards and pools on /metrics."""

from __future__ import annotations

from typing import Any

from gapless.observe.metrics import Meter
from gapless.resilience.breaker import breaker
from gapless.resilience.errors import Rejected
from gapless.resilience.guard import guard
from gapless.resilience.guards import Guards
from gapless.resilience.limit import limit
from gapless.resilience.pool import Pool
from gapless.resilience.pool_limits import PoolLimits
from gapless.service.protect_metrics import is_counter, observe_guards, observe_pools
from gapless.testing import FakeWorld


def values(meter: Meter) -> dict[str, dict[tuple[str, ...], Any]]:
    return {sample["name"]: {tuple(labels): value for labels, value in sample["values"]} for sample in meter.samples()}


def test_calls_by_how_they_ended_and_the_breaker_s_state() -> None:
    found, meter = guard("mail", breaker(window=2, minimum=2), limit(5), world=FakeWorld()), Meter()
    observe_guards(meter, [found])

    @found
    def send(fails: bool) -> None:
        if fails:
            raise OSError

    send(False)
    assert values(meter)["gapless_guard_breaker_state"] == {("mail", "breaker", "closed"): 1.0}
    for _ in range(4):
        try:
            send(True)
        except (OSError, Rejected):
            continue
    seen = values(meter)
    outcomes = {labels[1]: value for labels, value in seen["gapless_guard_calls"].items()}
    assert outcomes == {"ok": 1.0, "failed": 1.0, "rejected": 3.0, "expired": 0.0, "cancelled": 0.0}
    assert seen["gapless_guard_breaker_state"][("mail", "breaker", "closed")] == 0.0
    assert seen["gapless_guard_breaker_state"][("mail", "breaker", "open")] == 1.0
    assert seen["gapless_guard_policy_events"][("mail", "breaker", "opened")] == 1.0
    assert seen["gapless_guard_policy_value"][("mail", "limit", "busy")] == 0.0


def test_a_collection_may_grow() -> None:
    guards, meter = Guards(FakeWorld()), Meter()
    observe_guards(meter, guards)
    guards.take("late: {limit: 3}", "g")
    assert ("late", "ok") in values(meter)["gapless_guard_calls"]


def test_what_counts() -> None:
    assert [is_counter(name) for name in ("rejected", "calls", "window_failed", "busy")] == [True, True, False, False]


async def test_a_pool_tells_how_long_a_connection_has_been_out() -> None:
    world, meter = FakeWorld(), Meter()

    async def connect() -> object:
        return object()

    async with Pool(connect, name="db", world=world, limits=PoolLimits(max_size=2)) as pool:
        observe_pools(meter, [pool])
        async with pool.acquire():
            await world.advance(7)
            seen = values(meter)
        assert seen["pool_oldest_checkout_age_seconds"] == {("db",): 7.0}
        assert (seen["pool_idle"], seen["pool_in_use"]) == ({("db",): 0.0}, {("db",): 1.0})
        assert seen["pool_acquired"] == {("db",): 1.0}

"""What the balancers achieve together, in small seeded simulations. `benchmarks/balance.py` does it at length."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gapless.discovery.balance import Rule
from gapless.discovery.balancers import BALANCERS, consistent_hash, least_request, p2c_peak_ewma
from gapless.discovery.load import TAU_S
from gapless.testing import FakeWorld
from gapless.testing.queueing import Result, Server, simulate

MEAN_S = 0.02


def run(servers: list[Server], seed: int = 1, rule: Rule = p2c_peak_ewma, load: float = 0.5, **more: object) -> Result:
    options = {"seconds": 4.0, "callers": 4, **more}
    return simulate(servers, load=load, dice=FakeWorld(seed).random, rule=rule, **options)  # type: ignore[arg-type]


def alike(n: int = 6, **first: object) -> list[Server]:
    return [Server(MEAN_S, **(first if number == 0 else {})) for number in range(n)]  # type: ignore[arg-type]


def slow_one() -> list[Server]:
    return [Server(MEAN_S * (5 if number == 0 else 1)) for number in range(6)]


@pytest.mark.parametrize("make", [slow_one, lambda: alike(sigma=1.5)], ids=["one slow", "heavy tail"])
def test_peak_ewma_keeps_up_with_least_request(make: Callable[[], list[Server]]) -> None:
    ratios = [
        run(make(), seed, seconds=3.0).p99_s / run(make(), seed, least_request, seconds=3.0).p99_s for seed in range(3)
    ]
    assert sorted(ratios)[1] <= 1.2


@pytest.mark.parametrize("name", ["p2c_peak_ewma", "least_request", "random", "round_robin", "weighted_response_time"])
def test_who_has_recovered_is_probed_within_each_tau(name: str) -> None:
    back = 15.0
    servers = alike(out=(2.0, back))
    run(servers, rule=BALANCERS[name], load=0.03, seconds=back + 3 * TAU_S)
    out, asked = [at for at in servers[0].asked if 3.0 <= at < back], servers[0].asked
    for start in (back, back + TAU_S, back + 2 * TAU_S):
        assert any(start <= at < start + TAU_S for at in asked)
    assert len(out) < 4 * 8, "while it is out a caller asks it at 0.25 s, and each time twice as late"


def test_whoever_refuses_costs_little_for_any_rule() -> None:
    for rule in BALANCERS.values():
        assert run(alike(out=(0.5, math.inf)), rule=rule, seconds=2.0).errors < 0.03


def test_a_key_that_everybody_asks_for_does_not_overload_its_instance() -> None:
    hot = run(alike(), rule=consistent_hash, hot=0.5, load=0.6)
    assert max(hot.shares) < 0.45
    assert hot.p99_s < 3 * run(alike(), rule=least_request, load=0.6).p99_s


def zoned() -> list[Server]:
    return [Server(MEAN_S, zone="ab"[number % 2]) for number in range(8)]


def test_requests_stay_in_their_zone_and_spill_over_when_it_is_full() -> None:
    calm = run(zoned(), load=0.2, homes=("a", "a", "a", "b"))
    assert sum(calm.shares[::2]) == pytest.approx(0.75, abs=0.06)
    full = run(zoned(), load=0.75, homes=("a", "a", "a", "b"), seconds=8.0)
    assert sum(full.shares[::2]) < 0.67, "three quarters of the requests are more than half of the servers can do"
    assert full.p99_s < 0.5


def test_when_most_are_failing_the_rest_is_not_crushed() -> None:
    servers = [Server(MEAN_S, fails=1.0 if number < 4 else 0.0) for number in range(6)]
    done = run(servers, load=0.5)
    assert done.p99_s < 1.0
    assert all(share > 0.02 for share in done.shares)


def test_a_new_instance_gets_less_at_first() -> None:
    servers = alike(since=0.0)
    run(servers, load=0.2, seconds=14.0)

    def share(since: float, until: float) -> float:
        counts = [sum(since <= at < until for at in server.asked) for server in servers]
        return counts[0] / sum(counts) * len(servers)

    assert share(0.0, 2.0) < 0.6
    assert share(11.0, 14.0) == pytest.approx(1.0, abs=0.3)

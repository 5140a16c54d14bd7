"""The simulations of benchmarks/overload.py in short: what the policies promise under load, with the real policies."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import pytest

from gapless.resilience.breaker import breaker
from gapless.resilience.limit import adaptive, limit
from gapless.testing.world import FakeWorld

SIM = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "overload.py"))
SECONDS = 6.0


@pytest.fixture(scope="module")
def calm_s() -> Any:
    """p99 at 70 % load, with nothing in front."""
    return asyncio.run(SIM["overload"](None, 0.7, SECONDS))[1]


@pytest.mark.parametrize(
    "policy",
    [
        limit(adaptive(max=200)),
        limit(adaptive(max=200), queue=50),
        limit(adaptive(max=200), queue=50, order="adaptive"),
        limit(20, queue=100),
    ],
    ids=["adaptive", "with a queue", "newest first", "fixed"],
)
async def test_at_three_times_the_capacity_nearly_all_of_it_is_used_and_answers_stay_quick(
    policy: Any, calm_s: float
) -> None:
    goodput, p99_s, _ = await SIM["overload"](policy, 3.0, SECONDS)
    assert goodput >= 0.95
    assert p99_s <= 2 * calm_s


async def test_without_a_limit_everybody_waits_for_nothing() -> None:
    goodput, _, _ = await SIM["overload"](None, 3.0, 2.0)
    assert goodput < 0.05


async def test_below_the_capacity_an_adaptive_limit_refuses_nearly_nobody() -> None:
    goodput, _, refused = await SIM["overload"](limit(adaptive(max=200), queue=50), 0.7, SECONDS)
    assert goodput > 0.65
    assert refused < 0.01


async def test_hedging_takes_the_stragglers_off_the_p99_for_a_twentieth_more_load() -> None:
    plain_s, _ = await SIM["stragglers"](False, 3000)
    hedged_s, load = await SIM["stragglers"](True, 3000)
    assert hedged_s <= 0.4 * plain_s
    assert load <= 1.05


@pytest.mark.parametrize("probes", [1, 3, 10])
async def test_half_open_admits_exactly_k_of_a_hundred(probes: int) -> None:
    assert await SIM["recovery"](probes) == probes


@pytest.mark.parametrize("window", [100, "10s"])
async def test_a_side_that_fails_half_of_its_calls_is_noticed_within_twenty(window: Any) -> None:
    world = FakeWorld()
    layer = SIM["bind"](breaker(rate=0.5, window=window, minimum=20), world)
    assert await SIM["failures"](world, layer, share=0.5) == 20

"""Overload, stragglers and outages, simulated with the real policies in a pretended world (seeded: the same each time).

    .venv/bin/python benchmarks/overload.py [seconds of pretended time]

Targets: at three times the capacity a goodput of at least 95 % of it, and a p99 at most twice that of 70 % load; with
5 % stragglers hedging takes at least 60 % off the p99 for at most 5 % more load; half-open admits exactly k of 100; a
side that fails half of the time is noticed within 20 calls.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from gapless.resilience.breaker import breaker, growing
from gapless.resilience.errors import BreakerOpen, Overloaded
from gapless.resilience.hedge import hedge
from gapless.resilience.limit import adaptive, limit
from gapless.resilience.policy import Binding, Layer, Policy, Site
from gapless.testing.world import FakeWorld

WORKERS, MEAN_S = 20, 0.05
CAPACITY = WORKERS / MEAN_S
PATIENCE_S = 1.0
"""What takes longer is of no use to its client."""
SITE = Site(name="call", idempotent=True)
Call = Callable[[Any, Any], Awaitable[Any]]


def bind(policy: Policy, world: FakeWorld) -> Layer:
    return policy.bind(Binding(guard="sim", world=world, now=world.now, kinds=(policy.kind,)))


def quantile(values: list[float], q: float) -> float:
    """The smallest value that a share `q` of them does not exceed."""
    return sorted(values)[max(math.ceil(q * len(values)) - 1, 0)] if values else math.nan


def exponential(world: FakeWorld, mean: float) -> float:
    return -mean * math.log(1.0 - world.random())


class Side:
    """A side with workers and a queue that never says no. Work is Erlang-distributed (4 stages); what a client has
    given up is worked on all the same."""

    def __init__(self, world: FakeWorld, workers: int = WORKERS) -> None:
        self.world, self.places = world, asyncio.Semaphore(workers)

    async def __call__(self, args: Any, kwargs: Any) -> None:
        async with self.places:
            await self.world.sleep(sum(exponential(self.world, MEAN_S / 4) for _ in range(4)))


class Stragglers:
    """A side with room for everybody: around 10 ms, but one call in twenty takes 100 to 200."""

    def __init__(self, world: FakeWorld, share: float = 0.05) -> None:
        self.world, self.share, self.asked = world, share, 0

    async def __call__(self, args: Any, kwargs: Any) -> None:
        self.asked += 1
        slow = self.world.random() < self.share
        await self.world.sleep((0.1 if slow else 0.008) + exponential(self.world, 0.03 if slow else 0.001))


class Figures:
    """What clients have seen between two moments."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self.refused = self.offered = 0

    def goodput(self, seconds: float) -> float:
        return sum(each <= PATIENCE_S for each in self.took) / seconds


async def offer(world: FakeWorld, call: Call, per_s: float, seconds: float, warm_s: float) -> Figures:
    """Poisson arrivals; only those after the warm-up count."""
    figures, tasks = Figures(), set[asyncio.Task[None]]()
    begun = world.now()

    async def client() -> None:
        arrived = world.now()
        figures.offered += 1
        try:
            await call((), {})
        except Overloaded:
            figures.refused += arrived - begun >= warm_s
        else:
            if arrived - begun >= warm_s:
                figures.took.append(world.now() - arrived)

    while world.now() - begun < warm_s + seconds:
        await world.advance(exponential(world, 1 / per_s))
        task = asyncio.ensure_future(client())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await world.advance(PATIENCE_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return figures


async def overload(policy: Policy | None, load: float, seconds: float, seed: int = 1) -> tuple[float, float, float]:
    """(goodput as a share of the capacity, p99 in seconds, share refused) at `load` times the capacity."""
    world = FakeWorld(seed)
    call: Call = Side(world)
    if policy is not None:
        call = bind(policy, world).around(call, SITE)
    figures = await offer(world, call, load * CAPACITY, seconds, warm_s=4.0)
    offered = len(figures.took) + figures.refused
    return figures.goodput(seconds) / CAPACITY, quantile(figures.took, 0.99), figures.refused / max(offered, 1)


async def stragglers(hedged: bool, calls: int, seed: int = 1) -> tuple[float, float]:
    """(p99 in seconds, requests per call) of calls of which one in twenty is a straggler."""
    world = FakeWorld(seed)
    side = Stragglers(world)
    call: Call = side
    if hedged:
        call = bind(hedge("p95"), world).around(call, SITE)
    figures = await offer(world, call, 200.0, calls / 200.0, warm_s=1.5)
    return quantile(figures.took, 0.99), side.asked / figures.offered


async def recovery(probes: int, calls: int = 100) -> int:
    """How many of so many concurrent calls a breaker lets through when its time is over."""
    world = FakeWorld()
    layer = bind(breaker(window=20, probes=probes, open_for=growing(1, 1, jitter=0)), world)
    await failures(world, layer, share=1.0)
    await world.advance(1.0)
    passed = 0

    async def probe(args: Any, kwargs: Any) -> None:
        nonlocal passed
        passed += 1
        await world.sleep(0.1)

    call = layer.around(probe, SITE)
    tasks = [asyncio.ensure_future(call((), {})) for _ in range(calls)]
    await world.advance(0.2)
    await asyncio.gather(*tasks, return_exceptions=True)
    return passed


async def failures(world: FakeWorld, layer: Layer, share: float) -> int:
    """How many calls reach a side that fails in a share of them, evenly, before the breaker opens (at most 1,000)."""
    asked, debt = 0, 0.0

    async def failing(args: Any, kwargs: Any) -> None:
        nonlocal asked, debt
        asked += 1
        debt += share
        if debt >= 1.0:
            debt -= 1.0
            raise OSError("down")

    call = layer.around(failing, SITE)
    for _ in range(1_000):
        try:
            await call((), {})
        except OSError:
            continue
        except BreakerOpen:
            break
    return asked


POLICIES: dict[str, Policy | None] = {
    "nothing": None,
    "limit(20)": limit(20),
    "limit(20, queue=100)": limit(20, queue=100),
    "limit(adaptive(max=200))": limit(adaptive(max=200)),
    "limit(adaptive(max=200), queue=50)": limit(adaptive(max=200), queue=50),
    'limit(adaptive(max=200), queue=50, order="adaptive")': limit(adaptive(max=200), queue=50, order="adaptive"),
}


async def main(seconds: float) -> None:
    _, calm_s, _ = await overload(None, 0.7, seconds)
    print(f"a side of {WORKERS} workers, {CAPACITY:.0f} calls/s; p99 at 70 % load {calm_s * 1000:.0f} ms")
    print(f"{'at 3x the capacity':55}goodput      p99   of 70 % load   refused")
    for name, policy in POLICIES.items():
        good, p99_s, refused = await overload(policy, 3.0, seconds)
        print(f"{name:55}{good:7.1%} {p99_s * 1000:5.0f} ms {p99_s / calm_s:10.2f}x {refused:13.0%}")
    calls = int(seconds * 400)
    plain_s, _ = await stragglers(False, calls)
    hedged_s, load = await stragglers(True, calls)
    print(f"\n5 % stragglers: p99 {plain_s * 1000:.0f} ms; hedge(p95) {hedged_s * 1000:.0f} ms ", end="")
    print(f"({hedged_s / plain_s - 1:+.0%}) for {load - 1:+.1%} load (targets -60 %, +5 %)")
    for probes in (1, 3, 10):
        print(f"half-open with probes={probes}: {await recovery(probes)} of 100 concurrent calls pass")
    for window in (100, "10s"):
        world = FakeWorld()
        asked = await failures(world, bind(breaker(rate=0.5, window=window, minimum=20), world), share=0.5)
        print(f"a side that fails half of its calls, window {window}: open after {asked} calls (target 20)")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0))

"""False rollbacks and detection times of the analysis against peers' rules, on the same requests in the same run.

    .venv/bin/python benchmarks/verdict.py [--runs 200] [--seed 1]

100 requests/s, 5 % of them to the canary, a look every second, alpha = 1 %. The peers: the fixed rule "more than 5 %
errors in the last 60 s" (Flagger's and Argo Rollouts' usual one), the same with at least 100 requests, and a
two-proportion z-test on everything so far that is looked at every second. "e-process" is the bare test; "gapless" is
`rollout.analysis.look` with its guard rails and alpha divided among two metrics.

The second table has sticky users whose errors cling to them (2 % of the users fail half of the time); the canary is
as good as the stable release. The third has latencies: two stable instances and one of the canary, each of which stalls
for 0.1 to 0.5 s about once a minute, so that slow answers come in bursts.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, reduce

from gapless.core.model import BUCKETS, HISTOGRAM_BOUNDS_S, Evidence, Objective, RolloutPolicy, SplitBy, Window
from gapless.observe import judge
from gapless.rollout.analysis import Decision, look
from gapless.rollout.tally import Standing

ALPHA = 0.01
SHARE = 0.05
RATE = 100
FOREVER = 1e9
Second = tuple[Window, Window]
"""What the canary and the stable release answered."""


@dataclass
class Fixed:
    """More than 5 % errors in the last 60 s."""

    least: int = 1
    last: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=60))

    def sees(self, at: int, canary: Window, stable: Window) -> bool:
        self.last.append((canary.requests, canary.errors))
        requests, errors = (sum(column) for column in zip(*self.last, strict=True))
        return requests >= self.least and errors > 0.05 * requests


@dataclass
class Peeking:
    """Two proportions, one-sided z-test at alpha, on everything so far."""

    counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    critical: float = statistics.NormalDist().inv_cdf(1 - ALPHA)

    def sees(self, at: int, canary: Window, stable: Window) -> bool:
        seen = (canary.requests, canary.errors, stable.requests, stable.errors)
        self.counts = [old + new for old, new in zip(self.counts, seen, strict=True)]
        n, x, m, y = self.counts
        pooled = (x + y) / (n + m)
        if not n or not m or not 0 < pooled < 1:
            return False
        return (x / n - y / m) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)) > self.critical


@dataclass
class EProcess:
    """The bare test, with the share of each second. `first` counts each user's first error only."""

    first: bool = False
    logs: tuple[float, ...] = ()
    known: set[str] = field(default_factory=set)

    def sees(self, at: int, canary: Window, stable: Window) -> bool:
        mine, other = self.events(canary), self.events(stable)
        self.logs = judge.update(self.logs, mine, other, canary.requests / (canary.requests + stable.requests))
        return judge.evidence(self.logs) >= 1 / ALPHA

    def events(self, window: Window) -> int:
        if not self.first:
            return window.errors
        new = set(window.failed) - self.known
        self.known |= new
        return len(new)


@dataclass
class Gapless:
    """The whole analysis, as a rollout at its 5 % step asks it."""

    by: SplitBy = SplitBy.REQUEST
    evidence: Evidence = field(default_factory=Evidence)

    def sees(self, at: int, canary: Window, stable: Window) -> bool:
        policy = RolloutPolicy(by=self.by, alpha=ALPHA, hold_s=FOREVER, patience_s=FOREVER)
        standing = Standing(weight=round(SHARE * BUCKETS), held_s=at, waited_s=at, shifted_s=at, capacity=1 / 3)
        self.evidence, verdict = look(self.evidence, canary, stable, policy, Objective(), standing)
        return verdict.decision is Decision.ROLLBACK


@dataclass
class P99:
    """The canary's p99 of the last 60 s is more than three times that of the stable release."""

    least: int = 1
    last: deque[Second] = field(default_factory=lambda: deque(maxlen=60))

    def sees(self, at: int, canary: Window, stable: Window) -> bool:
        self.last.append((canary, stable))
        mine, other = (reduce(judge.merge, (w.latency for w in side), ()) for side in zip(*self.last, strict=True))
        return sum(mine) >= self.least and judge.quantile(mine, 0.99) > 3 * judge.quantile(other, 0.99)


@dataclass
class SlowPerRequest:
    """The bare e-process on each answer above three times the stable release's p99 so far."""

    logs: tuple[float, ...] = ()
    usual: tuple[int, ...] = ()

    def sees(self, at: int, canary: Window, stable: Window) -> bool:
        if sum(self.usual) >= 300:
            limit_s = 3 * judge.quantile(self.usual, 0.99)
            slow = [judge.count_above(window.latency, limit_s) for window in (canary, stable)]
            share = canary.requests / (canary.requests + stable.requests)
            self.logs = judge.update(self.logs, slow[0], slow[1], share)
        self.usual = judge.merge(self.usual, stable.latency)
        return judge.evidence(self.logs) >= 1 / ALPHA


Decider = Fixed | Peeking | EProcess | Gapless | P99 | SlowPerRequest
DECIDERS: dict[str, Callable[[], Decider]] = {
    "> 5 % over 60 s": Fixed,
    "same, >= 100 requests": lambda: Fixed(least=100),
    "z-test, peeking": Peeking,
    "e-process": EProcess,
    "gapless": Gapless,
}
STICKY: dict[str, Callable[[], Decider]] = {
    "> 5 % over 60 s": Fixed,
    "z-test, peeking": Peeking,
    "e-process per request": EProcess,
    "e-process per user, realised share": lambda: EProcess(first=True),
    "gapless, by user": lambda: Gapless(by=SplitBy.USER),
}


SLOW: dict[str, Callable[[], Decider]] = {
    "p99 over 60 s > 3 x": P99,
    "same, >= 100 requests": lambda: P99(least=100),
    "e-process per request": SlowPerRequest,
    "gapless": Gapless,
}


@cache
def cumulative(trials: int, rate: float) -> tuple[float, ...]:
    chances = [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials + 1)]
    return tuple(itertools.accumulate(chances))


def binomial(dice: random.Random, trials: int, rate: float) -> int:
    return min(bisect_left(cumulative(trials, rate), dice.random()), trials)


def independent(dice: random.Random, base: float, canary: float) -> Iterator[Second]:
    """Each request meets either release, and fails, by a die of its own."""
    while True:
        mine = binomial(dice, RATE, SHARE)
        yield (
            Window(requests=mine, errors=binomial(dice, mine, canary)),
            Window(requests=RATE - mine, errors=binomial(dice, RATE - mine, base)),
        )


def sticky(dice: random.Random, busy: bool) -> Iterator[Second]:
    """1,000 users, each always with the same release; 2 % of them fail half of the time. `busy`: one more user, with
    the stable release and without errors, sends nine requests for each of everybody else's."""
    users = [(str(i), dice.random() < SHARE, 0.5 if dice.random() < 0.02 else 0.002) for i in range(1_000)]
    while True:
        asked = dice.choices(users, k=RATE)
        sides = [[(u, e) for u, mine, e in asked if mine is side] for side in (True, False)]
        failed = [tuple(u for u, error in side if dice.random() < error) for side in sides]
        extra = 9 * RATE if busy else 0
        yield (
            Window(requests=len(sides[0]), errors=len(failed[0]), failed=failed[0]),
            Window(requests=len(sides[1]) + extra, errors=len(failed[1]), failed=failed[1]),
        )


def stalling(dice: random.Random, factor: float) -> Iterator[Second]:
    """Latencies around 10 ms; `factor`: how many times as slow the canary is."""
    while True:
        counts = [[0] * (len(HISTOGRAM_BOUNDS_S) + 1) for _ in range(3)]
        mine = binomial(dice, RATE, SHARE)
        for instance, requests in enumerate((mine, (RATE - mine) // 2, (RATE - mine + 1) // 2)):
            stall_s = dice.uniform(0.1, 0.5) if dice.random() < 1 / 60 else 0.0
            for _ in range(requests):
                took_s = 0.01 * math.exp(dice.gauss(0, 0.5)) * (1.0 if instance else factor)
                took_s += max(stall_s - dice.random(), 0.0)  # it came this long after the stall began
                counts[instance][bisect_left(HISTOGRAM_BOUNDS_S, took_s)] += 1
        yield (
            Window(requests=mine, latency=tuple(counts[0])),
            Window(requests=RATE - mine, latency=judge.merge(counts[1], counts[2])),
        )


def fired(stream: Iterator[Second], deciders: dict[str, Callable[[], Decider]], seconds: int) -> dict[str, int]:
    """The second at which each decider would roll back; those that never would are left out."""
    live, found = {name: make() for name, make in deciders.items()}, {}
    for at, (canary, stable) in zip(range(1, seconds + 1), stream, strict=False):
        for name in [name for name, decider in live.items() if decider.sees(at, canary, stable)]:
            found[name] = at
            del live[name]
        if not live:
            break
    return found


def rate_of(times: list[dict[str, int]], name: str) -> str:
    return f"{sum(name in found for found in times) / len(times):.1%}"


def median_of(times: list[dict[str, int]], name: str) -> str:
    middle = statistics.median(found.get(name, math.inf) for found in times)
    return f"{middle:.0f} s" if math.isfinite(middle) else "not found"


def table(title: str, heads: list[str], rows: dict[str, list[str]]) -> None:
    width = max(len(name) for name in rows)
    print(f"\n{title}\n{'':{width}}  " + "  ".join(f"{head:>14}" for head in heads))
    for name, cells in rows.items():
        print(f"{name:{width}}  " + "  ".join(f"{cell:>14}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="simulated rollouts per column")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice, began = random.Random(options.seed), time.perf_counter()

    def runs(make: Callable[[], Iterator[Second]], deciders: dict[str, Callable[[], Decider]]) -> list[dict[str, int]]:
        return [fired(make(), deciders, 1_800) for _ in range(options.runs)]

    good = [runs(lambda rate=rate: independent(dice, rate, rate), DECIDERS) for rate in (0.005, 0.02)]
    bad = [runs(lambda rate=rate: independent(dice, 0.005, rate), DECIDERS) for rate in (0.02, 0.1, 0.5)]
    table(
        f"Falsely rolled back within 30 min at two base rates ({options.runs} rollouts each); median time to find harm",
        ["0.5 % = 0.5 %", "2 % = 2 %", "0.5 -> 2 %", "0.5 -> 10 %", "0.5 -> 50 %"],
        {name: [rate_of(t, name) for t in good] + [median_of(t, name) for t in bad] for name in DECIDERS},
    )
    clinging = [runs(lambda busy=busy: sticky(dice, busy), STICKY) for busy in (False, True)]
    table(
        "Falsely rolled back within 30 min, sticky users whose errors cling to them",
        ["users alike", "one is busy"],
        {name: [rate_of(t, name) for t in clinging] for name in STICKY},
    )
    slow = [runs(lambda factor=factor: stalling(dice, factor), SLOW) for factor in (1.0, 5.0, 10.0)]
    table(
        "Slow answers, instances that stall: falsely rolled back within 30 min; median time to find a slow canary",
        ["as fast", "5 x as slow", "10 x as slow"],
        {name: [rate_of(slow[0], name), *(median_of(t, name) for t in slow[1:])] for name in SLOW},
    )
    print(f"\n{time.perf_counter() - began:.0f} s; a look of the whole analysis takes {cost_us():.0f} µs")


def cost_us(looks: int = 2_000) -> float:
    decider, seconds = Gapless(), list(itertools.islice(independent(random.Random(0), 0.005, 0.005), looks))
    began = time.perf_counter()
    for at, (canary, stable) in enumerate(seconds, 1):
        decider.sees(at, canary, stable)
    return (time.perf_counter() - began) / looks * 1e6


if __name__ == "__main__":
    main()

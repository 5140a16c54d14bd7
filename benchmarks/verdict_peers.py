"""Deciders for benchmarks/verdict.py: ours, and the documented rules of others, all on the same seconds."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Protocol

from gapless.core.model import BUCKETS, Evidence, Objective, RolloutPolicy, SplitBy, Window
from gapless.observe import judge
from gapless.rollout.analysis import Decision, look
from gapless.rollout.tally import Standing

ALPHA = 0.01
FOREVER = 1e9


class Decider(Protocol):
    def sees(self, at: int, canary: Window, stable: Window) -> str:
        """Why it rolls back after second `at`; empty when it does not."""
        ...


@dataclass
class Gapless:
    """The product's analysis, as a rollout that stands at one step asks it."""

    share: float
    by: SplitBy = SplitBy.USER
    evidence: Evidence = field(default_factory=Evidence)

    def sees(self, at: int, canary: Window, stable: Window) -> str:
        policy = RolloutPolicy(by=self.by, alpha=ALPHA, hold_s=FOREVER, patience_s=FOREVER)
        standing = Standing(weight=round(self.share * BUCKETS), held_s=at, waited_s=at, shifted_s=at, capacity=1 / 3)
        self.evidence, verdict = look(self.evidence, canary, stable, policy, Objective(), standing)
        return verdict.reason if verdict.decision is Decision.ROLLBACK else ""


@dataclass
class Recent:
    """What the last `span_s` seconds had."""

    span_s: int
    seconds: deque[tuple[Window, Window]] = field(default_factory=deque)

    def add(self, canary: Window, stable: Window) -> None:
        self.seconds.append((canary, stable))
        if len(self.seconds) > self.span_s:
            self.seconds.popleft()

    def rate(self) -> float:
        """The canary's error rate; NaN without requests."""
        requests = sum(canary.requests for canary, _ in self.seconds)
        return sum(canary.errors for canary, _ in self.seconds) / requests if requests else math.nan

    def requests(self) -> int:
        return sum(canary.requests for canary, _ in self.seconds)

    def p99_s(self, side: int) -> float:
        return judge.quantile(reduce(judge.merge, (pair[side].latency for pair in self.seconds), ()), 0.99)


@dataclass
class Fixed:
    """More than 5 % errors, or a p99 of three times the stable release's, in the last minute."""

    least: int = 1
    recent: Recent = field(default_factory=lambda: Recent(60))

    def sees(self, at: int, canary: Window, stable: Window) -> str:
        self.recent.add(canary, stable)
        if self.recent.requests() < self.least:
            return ""
        if self.recent.rate() > 0.05:
            return "errors"
        slow = at % 5 == 0 and self.recent.p99_s(0) > 3 * self.recent.p99_s(1) > 0
        return "p99" if slow else ""


@dataclass
class Argo:
    """An AnalysisTemplate as in Argo Rollouts' documentation: the canary's success rate over `interval_s`, measured
    every `interval_s`, `successCondition: result[0] >= 0.95`; more than `failure_limit` failed measurements fail the
    run. Without requests the result is not a number: that measurement fails, too (NaN >= 0.95 is false)."""

    interval_s: int = 300
    failure_limit: int = 3
    failures: int = 0
    recent: Recent = field(default_factory=lambda: Recent(0))

    def sees(self, at: int, canary: Window, stable: Window) -> str:
        self.recent.span_s = self.interval_s
        self.recent.add(canary, stable)
        if at % self.interval_s == 0:
            self.failures += not (1 - self.recent.rate() >= 0.95)
        return "failureLimit" if self.failures > self.failure_limit else ""


@dataclass
class Flagger:
    """The defaults of Flagger's documentation: every minute request-success-rate ≥ 99 % and request-duration (p99)
    ≤ 500 ms over the last minute; without requests a check does not fail; at `threshold` failed checks it goes back."""

    threshold: int = 5
    failures: int = 0
    recent: Recent = field(default_factory=lambda: Recent(60))

    def sees(self, at: int, canary: Window, stable: Window) -> str:
        self.recent.add(canary, stable)
        if at % 60 == 0 and self.recent.requests():
            self.failures += self.recent.rate() > 0.01 or self.recent.p99_s(0) > 0.5
        return "threshold" if self.failures >= self.threshold else ""


@dataclass
class MannWhitney:
    """As Kayenta's judge: every minute the samples so far (of 10 s each) of both releases, one-sided at 98 %, for the
    error rate and for the p99; a difference below a quarter is none."""

    recent: Recent = field(default_factory=lambda: Recent(10))
    samples: dict[str, tuple[list[float], list[float]]] = field(
        default_factory=lambda: {"errors": ([], []), "p99": ([], [])}
    )

    def sees(self, at: int, canary: Window, stable: Window) -> str:
        self.recent.add(canary, stable)
        if at % 10 == 0:
            self._sample()
        if at % 60 == 0:
            return next((name for name, pair in self.samples.items() if self._worse(*pair)), "")
        return ""

    def _sample(self) -> None:
        for side in (0, 1):
            windows = [pair[side] for pair in self.recent.seconds]
            if requests := sum(window.requests for window in windows):
                self.samples["errors"][side].append(sum(window.errors for window in windows) / requests)
                self.samples["p99"][side].append(self.recent.p99_s(side))

    @staticmethod
    def _worse(mine: list[float], other: list[float]) -> bool:
        if min(len(mine), len(other)) < 3 or statistics.mean(mine) <= 1.25 * statistics.mean(other):
            return False
        return rank_sum_z(mine, other) > statistics.NormalDist().inv_cdf(0.98)


def rank_sum_z(mine: list[float], other: list[float]) -> float:
    """Mann and Whitney's U of "mine is larger", as standard deviations, corrected for ties."""
    everything = sorted(mine + other)
    ranks, ties, place = {}, 0.0, 0
    while place < len(everything):
        count = everything.count(everything[place]) if place + 1 < len(everything) else 1
        ranks[everything[place]] = place + (count + 1) / 2
        ties += count**3 - count
        place += count
    n, m, both = len(mine), len(other), len(everything)
    u = sum(ranks[value] for value in mine) - n * (n + 1) / 2
    variance = n * m / 12 * (both + 1 - ties / (both * (both - 1)))
    return (u - n * m / 2 - 0.5) / math.sqrt(variance) if variance > 0 else 0.0


def deciders(share: float) -> dict[str, Callable[[], Decider]]:
    """By name; each call begins a new rollout."""
    return {
        "gapless": lambda: Gapless(share),
        "fixed thresholds": Fixed,
        "same, >= 100 requests": lambda: Fixed(least=100),
        "Argo Rollouts, 5 min, limit 3": Argo,
        "Argo Rollouts, 1 min, limit 0": lambda: Argo(interval_s=60, failure_limit=0),
        "Flagger, defaults": Flagger,
        "Mann-Whitney (Kayenta)": MannWhitney,
    }

"""What happens at 100 % of the users, where nothing is left to compare with: incidents that everybody has, and releases
that begin to fail there. Whole rollouts by the product's own decider, with and without the step before taken again.

    .venv/bin/python benchmarks/verdict_last.py                  # a minute
    .venv/bin/python benchmarks/verdict_last.py --runs 200

Canary, steps 25 % and 100 %, 0.5 % base errors, sticky users. The trouble begins in the first half of the last step.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from gapless.core.model import BUCKETS, Objective, Rollout, RolloutPolicy, RolloutState, Window
from gapless.rollout.controller import advance
from gapless.rollout.observed import Observed
from gapless.rollout.wanted import split_of, weight_of
from verdict import interval, middle, table

BASE = 0.005
LONGEST_S = 1_500
AT_LAST_S = 15
"""Of the 30 s that the last step is held."""

Rates = Callable[[float, int], tuple[float, float]]
"""Seconds since the trouble began and the share in buckets, to the error rates of canary and stable."""


@dataclass(frozen=True)
class End:
    """`back_s`: from the beginning of the trouble until it was decided to go back; `failed`: answers until then."""

    state: str
    back_s: float
    failed: int


def incident(for_s: int, rate: float = 0.25) -> Rates:
    return lambda at_s, _: (rate, rate) if 0 <= at_s < for_s else (BASE, BASE)


def broken(rate: float) -> Rates:
    return lambda at_s, _: (rate if at_s >= 0 else BASE, BASE)


def overloaded(rate: float) -> Rates:
    """It fails only while it has more than it can carry."""
    return lambda at_s, weight: (rate if at_s >= 0 and weight == BUCKETS else BASE, BASE)


def run(rates: Rates, per_s: float, seed: int, *, again: bool) -> End:
    """`again`: the step before may be taken again."""
    begins_after_s, dice = random.Random(seed).randrange(AT_LAST_S), random.Random(seed)
    buckets = [dice.randrange(BUCKETS) for _ in range(max(int(per_s * 20), 50))]
    policy = RolloutPolicy(steps=(2_500, BUCKETS))
    rollout = Rollout(number=1, service="s", before="old", after="new", policy=policy, instances=4)
    rollout = replace(rollout, stepped_back=not again, started_at=1.0, since_at=1.0)
    observed = Observed(ready={"old": 4, "new": 4}, running={"old": 4, "new": 4})
    share, begins_at, failed, now = 0, 0, 0, 1
    while not rollout.winner and now < LONGEST_S:
        now += 1
        weight = weight_of(rollout)
        if weight == BUCKETS and not begins_at:
            begins_at = now + begins_after_s
        at_s = now - begins_at if begins_at else -1
        moved = dice.random() if weight != share else 0.0  # the part of the second in which the gateway has not yet
        sides = _second(dice, buckets, per_s, (share, weight, moved), rates(at_s, weight))
        failed += sum(side.errors for side in sides) if at_s >= 0 else 0
        share = weight
        seen = replace(observed, applied=split_of(rollout, observed))
        rollout = advance(rollout, seen, *sides, Objective(), now).rollout
    gone = rollout.winner == rollout.before
    state = RolloutState.ROLLED_BACK if gone else RolloutState.PROMOTED if rollout.winner else rollout.state
    return End(str(state), now - begins_at if gone else float("inf"), failed)


def _second(
    dice: random.Random,
    buckets: list[int],
    per_s: float,
    shares: tuple[int, int, float],
    rates: tuple[float, float],
) -> tuple[Window, Window]:
    """What canary and stable answer in it. `shares`: before, after, and for which part of it the one before holds."""
    counts, failed = [0, 0], ([], [])
    for _ in range(round(dice.gauss(per_s, per_s**0.5))):
        user = dice.randrange(len(buckets))
        side = 0 if buckets[user] < shares[dice.random() >= shares[2]] else 1
        counts[side] += 1
        if dice.random() < rates[side]:
            failed[side].append(f"u{user}")
    canary, stable = (
        Window(requests=count, errors=len(users), failed=tuple(users))
        for count, users in zip(counts, failed, strict=True)
    )
    return canary, stable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="rollouts per cell")
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 100.0], help="requests per second")
    options = parser.parse_args()
    shared = {f"{seconds} s": incident(seconds) for seconds in (10, 30, 60, 300)}
    guilty = {f"errors {rate:.0%}": broken(rate) for rate in (0.1, 0.2, 0.5)}
    guilty |= {f"errors {rate:.0%} at 100 % alone": overloaded(rate) for rate in (0.2, 0.5)}
    for per_s in options.rates:
        false: dict[str, list[str]] = {}
        back: dict[str, list[str]] = {}
        errors: dict[str, list[str]] = {}
        for name, again in (("goes back at once", False), ("takes the step before again", True)):
            ends = {
                case: [run(rates, per_s, seed, again=again) for seed in range(options.runs)]
                for case, rates in {**shared, **guilty}.items()
            }
            sent = {case: sum(end.state == "rolled back" for end in found) for case, found in ends.items()}
            false[name] = [interval(sent[case], options.runs) for case in shared]
            back[name] = [middle([end.back_s for end in ends[case]]) for case in guilty]
            errors[name] = [middle([float(end.failed) for end in ends[case]]) for case in guilty]
        what = f"{per_s:g} requests/s, {options.runs} rollouts each"
        table(f"Sent back by an incident of 25 % errors that everybody has; {what}", list(shared), false)
        table(
            f"Seconds from the first harm until a bad release is sent back, median / 90 %; {what}", list(guilty), back
        )
        table(f"Failed answers until then, median / 90 %; {what}", list(guilty), errors)


if __name__ == "__main__":
    main()

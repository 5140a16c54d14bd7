"""Strategies as pure steps: how many users, and how many instances of either release, at each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from gapless.core.errors import ConfigError
from gapless.core.model import BUCKETS, Amount, RolloutPolicy, StepRule, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStep:
    """One step. The new instances are ready before the users come; the old pool shrinks to `old_instances` only after
    the gateway has moved the users away."""

    weight: int
    """The new release's share in buckets of 10,000."""
    new_instances: int
    old_instances: int
    hold_s: float | None = None
    """Instead of the policy's."""
    approve: bool = False
    """Somebody must approve before users come."""
    pause_s: float | None = None
    """It pauses for so long once users have come; 0: until it is resumed; None: it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps, and what the old pool has while the first step's instances start."""

    steps: tuple[PlanStep, ...]
    old_at_start: int

    @property
    def needed_to_win(self) -> int:
        """New instances that must be ready before the old ones may go."""
        return self.steps[-1].new_instances


@lru_cache(maxsize=256)
def plan_for(policy: RolloutPolicy, instances: int) -> Plan:
    """The plan of a rollout of a service that was asked to have `instances` (at least one). The weights rise and end at
    10,000, and at each step both pools together have at least the capacity that was asked for, less what the policy
    lets be unavailable.

    Raises ConfigError when the policy's weights do not.
    """
    instances = max(instances, 1)
    match policy.strategy:
        case Strategy.ROLLING:
            surge, missing = replaced_at_once(policy, instances)
            steps, old_at_start = tuple(_rolling(instances, surge, missing)), instances - missing
        case Strategy.BLUE_GREEN:
            steps, old_at_start = (_whole(instances),), instances
        case Strategy.CANARY:
            steps, old_at_start = _canary(policy.steps, instances), instances
    return Plan(steps=_ruled(steps, policy), old_at_start=old_at_start)


def steps_for(policy: RolloutPolicy, instances: int) -> tuple[PlanStep, ...]:
    """The steps of `plan_for`."""
    return plan_for(policy, instances).steps


def replaced_at_once(policy: RolloutPolicy, instances: int) -> tuple[int, int]:
    """(instances above those asked for, instances below), as Kubernetes rounds them. Two things are never allowed: that
    nobody is left to answer, and that nothing can be replaced."""
    surge = _amount(policy.surge, instances, math.ceil)
    missing = min(_amount(policy.unavailable, instances, math.floor), instances - 1)
    return (surge, missing) if surge or missing else (1, 0)


def _amount(amount: Amount, instances: int, rounded: Callable[[float], int]) -> int:
    # 7 % of 100 is 7.000000000000001 in floating point.
    return amount.count + rounded(round(amount.share * instances, 9))


def _whole(instances: int) -> PlanStep:
    return PlanStep(weight=BUCKETS, new_instances=instances, old_instances=instances)


def _canary(weights: tuple[int, ...], instances: int) -> tuple[PlanStep, ...]:
    """The new pool grows beside the old one, which keeps all its instances until the end: going back takes only as long
    as the gateway needs."""
    rising = all(low < high for low, high in zip((0, *weights), weights, strict=False))
    if not rising or not weights or weights[-1] != BUCKETS:
        raise ConfigError(
            f"rollout steps {list(weights)} do not rise from above 0 to {BUCKETS}",
            "Give rising shares that end with 100 %, as in `steps: [1%, 5%, 25%, 100%]`.",
        )
    return tuple(
        PlanStep(weight=weight, new_instances=pool_for(weight, instances), old_instances=instances)
        for weight in weights
    )


def pool_for(weight: int, instances: int) -> int:
    """The instances that carry `weight` of the users of a service that needs `instances` for all of them."""
    return max(1, -(-instances * weight // BUCKETS))


def _rolling(instances: int, surge: int, missing: int) -> Iterator[PlanStep]:
    """As many new instances as surge and missing ones leave room for, then their share of the users, then as many old
    ones less. The last old one stays until the new release is judged with all the users: going back then has somewhere
    to go. Without surge its place is only filled after the end."""
    most = instances if surge else instances - 1
    old, new = instances - missing, 0
    while new < most:
        new = min(most, instances + surge - old)
        old = max(instances - missing - new, 1)
        if new < most or most < instances:
            yield PlanStep(weight=BUCKETS * new // (new + old), new_instances=new, old_instances=old)
    yield PlanStep(weight=BUCKETS, new_instances=most, old_instances=1)


def _ruled(steps: tuple[PlanStep, ...], policy: RolloutPolicy) -> tuple[PlanStep, ...]:
    ruled, below = [], 0
    for step in steps:
        rules = [rule for rule in policy.rules if below < rule.weight <= step.weight]
        ruled.append(_with(step, rules))
        below = step.weight
    return tuple(ruled)


def _with(step: PlanStep, rules: list[StepRule]) -> PlanStep:
    """The last rule that says something about it holds."""
    holds = [rule.hold_s for rule in rules if rule.hold_s is not None]
    pauses = [rule.pause_s for rule in rules if rule.pause_s is not None]
    return replace(
        step,
        hold_s=holds[-1] if holds else None,
        approve=any(rule.approve for rule in rules),
        pause_s=pauses[-1] if pauses else None,
    )

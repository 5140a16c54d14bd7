"""Strategies as pure steps: how many users, and how many instances of either release, at each of them."""

from __future__ import annotations

from dataclasses import dataclass

from gapless.core.errors import ConfigError
from gapless.core.model import BUCKETS, RolloutPolicy, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStep:
    """One step. The new instances are ready before the users come; the old pool shrinks to `old_instances` only after
    the gateway has moved the users away."""

    weight: int
    """The new release's share in buckets of 10,000."""
    new_instances: int
    old_instances: int


def steps_for(policy: RolloutPolicy, instances: int) -> tuple[PlanStep, ...]:
    """The steps of a rollout of a service that was asked to have `instances` (at least one). The weights rise and end
    at 10,000, and at each step both pools together have at least the capacity that was asked for.

    Raises ConfigError when the policy's weights do not.
    """
    instances = max(instances, 1)
    if policy.strategy is Strategy.ROLLING:
        return _rolling(instances)
    return _canary(policy.steps, instances)


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


def _rolling(instances: int) -> tuple[PlanStep, ...]:
    """One more new instance, then its share of the users, then one old instance less. The last old one stays until the
    new release is judged with all the users: going back then has somewhere to go."""
    return tuple(
        PlanStep(weight=BUCKETS * new // instances, new_instances=new, old_instances=max(instances - new, 1))
        for new in range(1, instances + 1)
    )

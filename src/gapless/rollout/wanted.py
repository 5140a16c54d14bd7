"""What a rollout wants of the gateway and of the fleet, as functions of where it stands. Pure."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.model import BUCKETS, Pool, Rollout, RolloutState, Split
from gapless.rollout.observed import Observed
from gapless.rollout.plan import Plan, PlanStep, plan_for


def plan_of(rollout: Rollout) -> tuple[PlanStep, ...]:
    return whole_plan(rollout).steps


def whole_plan(rollout: Rollout) -> Plan:
    return plan_for(rollout.policy, rollout.instances)


def weight_of(rollout: Rollout) -> int:
    """The new release's share of the users, in buckets of 10,000: that of the present step, unless another one was
    given by hand; 0 before the first."""
    if rollout.by_hand >= 0:
        return rollout.by_hand
    return plan_of(rollout)[rollout.step].weight if rollout.step >= 0 else 0


def salt_of(rollout: Rollout) -> str:
    """One for all of a train: at the same share, the same users meet all its new releases."""
    return f"train-{rollout.train}" if rollout.train else f"{rollout.service}-{rollout.number}"


def step_split(rollout: Rollout, weight: int) -> Split:
    """The newcomer first, so that raising its share only adds users; salted by the rollout, so that another one meets
    other users first."""
    return Split(
        service=rollout.service,
        stable=rollout.before,
        weights=((rollout.after, weight), (rollout.before, BUCKETS - weight)),
        by=rollout.policy.by,
        by_name=rollout.policy.by_name,
        salt=salt_of(rollout),
    )


def end_split(rollout: Rollout) -> Split:
    """All users to the winner. The salt tells it from the split before the rollout: an acknowledgement of that one must
    not pass for one of this. With all else as in the steps, the way back is one more of them for the gateway."""
    return replace(step_split(rollout, 0), stable=rollout.winner, weights=((rollout.winner, BUCKETS),))


def split_of(rollout: Rollout, observed: Observed, patient: bool = True) -> Split | None:
    """The split that is wanted now; None as long as the rollout has not touched it. `patient` is False when the old
    pool has had its time to come back."""
    if not rollout.shifted_at or rollout.state in (RolloutState.SCHEDULED, RolloutState.STARTING):
        return None
    if rollout.state is RolloutState.SHIFTING:
        return step_split(rollout, weight_of(rollout))
    if rollout.winner == rollout.before and not rollout.applied_at:
        return _way_back(rollout, observed, patient)
    return end_split(rollout)


def _way_back(rollout: Rollout, observed: Observed, patient: bool) -> Split | None:
    """At once to an old pool that is full; to one that has shrunk only as many users as it can carry, while it grows.
    Nobody is sent to a pool without a ready instance as long as the other one has some."""
    ready, other = observed.ready.get(rollout.before, 0), observed.ready.get(rollout.after, 0)
    if other and not ready:
        return observed.split
    shrunk = plan_of(rollout)[max(rollout.step, 0)].old_instances < rollout.instances
    carried = BUCKETS * ready // rollout.instances
    if not shrunk or not other or not patient or carried >= BUCKETS:
        return end_split(rollout)
    return step_split(rollout, min(BUCKETS - carried, _new_weight(rollout, observed.split)))


def _new_weight(rollout: Rollout, split: Split | None) -> int:
    """Never more than it has: an old instance that is lost on the way must not send users forward again."""
    weights = dict(split.weights) if split else {}
    return weights.get(rollout.after, 0) if weights else weight_of(rollout)


def pool_of(rollout: Rollout, observed: Observed) -> Pool:
    """The instances that are wanted now; together never fewer than were asked for, less what may be unavailable."""
    return Pool(service=rollout.service, sizes=_sizes(rollout, observed.pool))


def _sizes(rollout: Rollout, pool: Pool | None) -> dict[str, int]:
    if rollout.state is RolloutState.SCHEDULED:
        return dict(pool.sizes) if pool else {rollout.before: rollout.instances}
    loser = rollout.before if rollout.winner == rollout.after else rollout.after
    has = pool.sizes.get(loser, 0) if pool else rollout.instances
    if rollout.state.ended:
        return {rollout.winner: rollout.instances, **({loser: has} if rollout.keeping and has else {})}
    if rollout.state is not RolloutState.FINISHING:
        return {rollout.before: _old(rollout), rollout.after: new_needed(rollout)}
    if rollout.applied_at:
        return {rollout.winner: rollout.instances, loser: has if rollout.keeping else 0}
    # Until the gateway has moved its last user the loser keeps what it has. Going back may exceed the surge: whoever
    # needs to go back needs it soon.
    wins = new_needed(rollout) if rollout.winner == rollout.after else rollout.instances
    return {rollout.winner: wins, loser: has}


def new_needed(rollout: Rollout) -> int:
    """The new release's instances that must be ready before its next users come, or before it wins."""
    plan = whole_plan(rollout)
    whole = rollout.winner == rollout.after or rollout.stepped_back
    return plan.needed_to_win if whole else plan.steps[rollout.target].new_instances


def _old(rollout: Rollout) -> int:
    """Those of this step once the gateway has applied it, those of the step before until then."""
    plan, step = whole_plan(rollout), rollout.step if rollout.applied_at else rollout.step - 1
    return plan.steps[step].old_instances if step >= 0 else plan.old_at_start

"""The way back from a promoted release: one movement, all users at once, as soon as the instances are there. Pure."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.model import BUCKETS, Rollout, RolloutPolicy, Strategy
from gapless.rollout.gates import ungated

ALWAYS = "going back is always allowed"


def undo_policy(policy: RolloutPolicy) -> RolloutPolicy:
    """Nothing is asked of the release that users come back to, and nothing is kept of the other one."""
    return replace(
        ungated(policy),
        strategy=Strategy.CANARY,
        steps=(BUCKETS,),
        rules=(),
        hold_s=0.0,
        min_samples=0,
        keep_s=0.0,
        bake_s=0.0,
    )


def undo(
    promoted: Rollout,
    *,
    number: int,
    instances: int,
    now_at: float,
    reason: str,
    automatic: bool = False,
    train: str = "",
) -> Rollout:
    """The rollout that takes back a promoted one. Its winner is decided: it is not judged, for there is nowhere else to
    go, and an automatic one is never taken back by another automatic one."""
    return Rollout(
        number=number,
        service=promoted.service,
        before=promoted.after,
        after=promoted.before,
        policy=undo_policy(promoted.policy),
        instances=instances,
        started_at=now_at,
        since_at=now_at,
        decided_at=now_at,
        winner=promoted.before,
        reason=reason,
        override=ALWAYS,
        undoes=promoted.number,
        automatic=automatic,
        train=train,
    )

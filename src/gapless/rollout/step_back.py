"""Harm at 100 %, where nothing is left to compare with: once, a rollout takes the step before again instead of going
back for good. Pure.

An incident that everybody has looks like the release's fault there. At the step before, both releases answer in the
same seconds: if the release is to blame, that is found out as at any step; if not, it stays there until the incident is
over and then goes on. The guard rails begin anew, and only what they find from then on sends it back. So a release that
is as good is sent back no more often than alpha says: an e-process that begins anew at some moment is one.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gapless.core.model import BUCKETS, Evidence, Rollout, Seen, Strategy
from gapless.rollout.analysis import FAILED_CHECKS, Decision
from gapless.rollout.plan import pool_for
from gapless.rollout.scene import Move, Scene, act
from gapless.rollout.wanted import plan_of, weight_of


def uncompared(rollout: Rollout, scene: Scene) -> bool:
    """Is it a guard rail alone that says so, with all the users, and may the step before be taken again? Only `canary`
    has its whole old pool still there; a train moves together; what somebody decided by hand is not decided anew."""
    verdict, numbers = scene.verdict, scene.verdict.numbers
    if verdict.decision is not Decision.ROLLBACK or weight_of(rollout) < BUCKETS or rollout.stepped_back:
        return False
    compared = max(numbers["e_errors"], numbers["e_slow"]) >= numbers["e_limit"]
    if compared or numbers["unhealthy"] >= FAILED_CHECKS or scene.observed.gates.refusal or scene.deserted(rollout):
        return False
    if rollout.policy.strategy is not Strategy.CANARY or rollout.train or rollout.winner or rollout.step < 1:
        return False
    left = BUCKETS - plan_of(rollout)[rollout.step - 1].weight
    return scene.observed.ready.get(rollout.before, 0) >= pool_for(left, rollout.instances)


def step_back(rollout: Rollout, scene: Scene) -> Move:
    step = rollout.step - 1
    share = f"{plan_of(rollout)[step].weight * 100 / BUCKETS:g} %"
    back = replace(
        rollout,
        stepped_back=True,
        step=step,
        target=step,
        skipped=min(rollout.skipped, step - 1),
        since_at=scene.now_at,
        applied_at=0.0,
        waiting="",
        evidence=_anew(rollout.evidence),
    )
    why = f"{scene.verdict.reason}; with all the users there is nothing to compare with, and with {share} there is"
    return back, (act(rollout, f"back to {share} of the users", why, scene),)


def _anew(evidence: Evidence) -> Evidence:
    """What the guard rails have seen is forgotten, and whose first errors they have counted; what compares both
    releases stays."""
    return replace(
        evidence,
        broken=(),
        met=Seen(),
        recent_canary=(0, 0),
        canary_latency=(),
        looks=0,
        slow_looks=0,
        stable_now=(0.0, 0.0),
    )


def turning(rollout: Rollout) -> bool:
    """The users are on their way back: a second in which the stable release had hardly any says nothing about it."""
    if not rollout.stepped_back or rollout.step + 1 == len(plan_of(rollout)):
        return False
    return not rollout.applied_at or math.floor(rollout.evidence.until_at) < rollout.applied_at

"""After the promotion: the release is watched for a while, the old pool kept for a while. Pure.

What does harm now goes back by itself, once: the rollout that takes it back is not watched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gapless.core.model import Objective, Pool, Rollout, RolloutState, Window
from gapless.rollout import analysis
from gapless.rollout.analysis import Decision, Verdict
from gapless.rollout.by_hand import beside
from gapless.rollout.observed import Observed
from gapless.rollout.scene import Act, Outcome, title


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """`harm`: why the promoted release must go back; empty when nothing says so."""

    outcome: Outcome
    harm: str = ""


def baking(rollout: Rollout) -> bool:
    """Is it still watched?"""
    return rollout.state is RolloutState.PROMOTED and rollout.policy.bake_s > 0 and not rollout.baked_at


def kept(rollout: Rollout, pool: Pool | None) -> int:
    """Instances of the old release that are still there for a return."""
    promoted = rollout.state is RolloutState.PROMOTED and rollout.keeping
    return pool.sizes.get(rollout.before, 0) if promoted and pool else 0


def after_promotion(
    rollout: Rollout, observed: Observed, window: Window, objective: Objective, now_at: float
) -> Aftermath:
    """The promoted rollout after this moment. `window` is what its release has answered since
    `rollout.evidence.until_at` (nothing when that is 0)."""
    if not baking(rollout):
        return Aftermath(outcome=_emptied(rollout, observed, now_at))
    baked_s = now_at - rollout.ended_at
    evidence, verdict = analysis.bake(
        rollout.evidence,
        window,
        rollout.policy,
        objective,
        baked_s=baked_s,
        bake_s=rollout.policy.bake_s,
        unhealthy=observed.unhealthy,
    )
    if window.requests or not evidence.until_at:
        evidence = replace(evidence, until_at=now_at)
    watched = replace(rollout, evidence=evidence)
    if verdict.decision is Decision.ROLLBACK:
        return Aftermath(outcome=_baked(watched, verdict, "it does harm and goes back", now_at), harm=verdict.reason)
    if verdict.decision is Decision.PROMOTE:
        return Aftermath(outcome=_baked(watched, verdict, "the bake is over", now_at))
    return Aftermath(outcome=replace(_emptied(watched, observed, now_at), verdict=verdict))


def _baked(rollout: Rollout, verdict: Verdict, what: str, now_at: float) -> Outcome:
    told = Act(what=f"{title(rollout)}: {what}", why=verdict.reason, numbers=verdict.numbers)
    return Outcome(rollout=replace(rollout, baked_at=now_at), acts=(told,), verdict=verdict)


def _emptied(rollout: Rollout, observed: Observed, now_at: float) -> Outcome:
    """The old pool goes when its time is over, and nobody is sent there, as somebody may have asked by hand."""
    instances = kept(rollout, observed.pool)
    asked = any(rollout.before in beside(split) for split in (observed.split, observed.applied))
    if not instances or observed.pool is None or asked or now_at < rollout.ended_at + rollout.policy.keep_s:
        return Outcome(rollout=rollout)
    sizes = {release: size for release, size in observed.pool.sizes.items() if release != rollout.before}
    what = f"{title(rollout)}: {instances} instances of {rollout.before} are drained"
    told = Act(what=what, why=f"they were kept for {rollout.policy.keep_s:g} s", numbers={"kept": instances})
    return Outcome(rollout=rollout, pool=replace(observed.pool, sizes=sizes), acts=(told,))

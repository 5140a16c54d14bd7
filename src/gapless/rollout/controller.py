"""What comes next in a rollout: (rollout, observed, answers, now) → (rollout, what to write). Pure, level-triggered.

    SCHEDULED   its time has not come; nothing is touched
    STARTING    instances for the first step are wanted beside the full old pool; no user meets them
    SHIFTING    for each step: instances first, then users, then looks until the analysis says promote or roll back
    FINISHING   the winner gets all the users; when the gateway has applied that, the loser is drained
    PROMOTED, ROLLED_BACK

The outcome is to be written in one transaction. A control plane may be killed before or after it: whoever reads the
store next comes to the same end, because every decision compares what is wanted with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gapless.core.model import Evidence, Objective, Reading, Rollout, RolloutPolicy, RolloutState, Window
from gapless.rollout import analysis, metrics, tally
from gapless.rollout.analysis import Verdict
from gapless.rollout.calendar import Closed
from gapless.rollout.commands import resume, steer
from gapless.rollout.finishing import finish
from gapless.rollout.observed import Observed, observe
from gapless.rollout.scene import FREE, POOL_TIMES, Act, Leash, Move, Outcome, Scene
from gapless.rollout.shifting import shift
from gapless.rollout.starting import begin, start
from gapless.rollout.step_back import turning
from gapless.rollout.tally import Standing
from gapless.rollout.wanted import plan_of, pool_of, split_of, weight_of

__all__ = ["Act", "Observed", "Outcome", "advance", "observe", "steer"]


def advance(
    rollout: Rollout,
    observed: Observed,
    canary: Window,
    stable: Window,
    objective: Objective,
    now_at: float,
    *,
    start_s: float = 30.0,
    readings: Sequence[Reading] | None = None,
    closed: Closed | None = None,
    leash: Leash = FREE,
) -> Outcome:
    """The rollout after this moment.

    `canary` and `stable` are what `rollout.after` and `rollout.before` answered between `rollout.evidence.until_at`
    (nothing when that is 0) and `now_at`. `start_s` is the service's start limit for one instance; `readings` are those
    of the business metrics, None when they were not read; `closed` is why releases may not be moved now, and `leash`
    what its train allows: neither ever holds back a way back. Calling it again with the outcome's rollout and the same
    observation changes nothing more.
    """
    if rollout.state.ended:
        return Outcome(rollout=rollout)
    rollout = _read(_applied(_resumed(rollout, now_at), observed, now_at), readings, now_at)
    rollout, verdict = _look(rollout, observed, canary, stable, objective, now_at)
    scene = Scene(observed=observed, verdict=verdict, now_at=now_at, start_s=start_s, closed=closed, leash=leash)
    judged = rollout.state is RolloutState.SHIFTING
    acts: tuple[Act, ...] = ()
    while moved := _MOVES[rollout.state](rollout, scene):
        rollout, more = moved
        acts += more
    split, pool = split_of(rollout, observed, not scene.late(rollout, POOL_TIMES)), pool_of(rollout, observed)
    held = leash.back_held and rollout.state is RolloutState.FINISHING and rollout.winner == rollout.before
    return Outcome(
        rollout=rollout,
        split=split if split != observed.split and not held else None,
        pool=pool if pool != observed.pool else None,
        acts=acts,
        verdict=verdict if judged else None,
    )


def _resumed(rollout: Rollout, now_at: float) -> Rollout:
    """A pause that had an end is over."""
    over = rollout.paused and 0 < rollout.paused_until_at <= now_at
    return resume(rollout, now_at) if over else rollout


def _applied(rollout: Rollout, observed: Observed, now_at: float) -> Rollout:
    """Note that the gateway has applied the present step: its samples and its hold begin now."""
    waiting = rollout.state is RolloutState.SHIFTING and not rollout.applied_at
    if not waiting or observed.applied != split_of(rollout, observed):
        return rollout
    evidence = metrics.new_step(replace(rollout.evidence, step_requests=0, step_stable=0))
    return replace(rollout, applied_at=now_at, evidence=evidence)


def _read(rollout: Rollout, readings: Sequence[Reading] | None, now_at: float) -> Rollout:
    if readings is None or not rollout.applied_at:
        return rollout
    return replace(rollout, evidence=metrics.read(rollout.evidence, rollout.policy.metrics, readings, now_at))


def _look(
    rollout: Rollout, observed: Observed, canary: Window, stable: Window, objective: Objective, now_at: float
) -> tuple[Rollout, Verdict]:
    """Count the answers since the last look, once; then judge."""
    standing = _standing(rollout, observed, now_at)
    evidence = rollout.evidence
    if now_at > evidence.until_at and (canary.requests or stable.requests) and not turning(rollout):
        if rollout.state is RolloutState.SHIFTING:
            evidence = tally.count(evidence, canary, stable, rollout.policy, objective, standing)
        elif rollout.state is RolloutState.STARTING:
            evidence = tally.baseline(evidence, stable)
    if now_at != evidence.until_at and _watching(rollout, evidence, canary, stable):
        evidence = replace(evidence, until_at=now_at)
    if evidence is not rollout.evidence:
        rollout = replace(rollout, evidence=evidence)
    return rollout, analysis.verdict(evidence, _policy(rollout), objective, standing)


def _policy(rollout: Rollout) -> RolloutPolicy:
    """With the hold of the present step."""
    own_s = plan_of(rollout)[max(rollout.step, 0)].hold_s
    return rollout.policy if own_s is None else replace(rollout.policy, hold_s=own_s)


def _watching(rollout: Rollout, evidence: Evidence, canary: Window, stable: Window) -> bool:
    """Is there a reason to write a new `until_at`? An idle service should not be written about every second."""
    begun = rollout.state in (RolloutState.STARTING, RolloutState.SHIFTING)
    return begun and bool(not evidence.until_at or canary.requests or stable.requests)


def _standing(rollout: Rollout, observed: Observed, now_at: float) -> Standing:
    return Standing(
        weight=weight_of(rollout),
        held_s=now_at - rollout.applied_at if rollout.applied_at else 0.0,
        waited_s=0.0 if rollout.waiting else now_at - rollout.since_at,
        shifted_s=now_at - rollout.shifted_at if rollout.shifted_at else 0.0,
        capacity=_share(observed.ready.get(rollout.after, 0), observed.ready.get(rollout.before, 0)),
        unhealthy=observed.unhealthy,
        paused=rollout.paused,
    )


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part else 0.0


_MOVES: Mapping[RolloutState, Callable[[Rollout, Scene], Move | None]] = {
    RolloutState.SCHEDULED: begin,
    RolloutState.STARTING: start,
    RolloutState.SHIFTING: shift,
    RolloutState.FINISHING: finish,
    RolloutState.PROMOTED: lambda rollout, scene: None,
    RolloutState.ROLLED_BACK: lambda rollout, scene: None,
}

"""What comes next in a rollout: (rollout, observed, answers, now) → (rollout, what to write). Pure, level-triggered.

    STARTING    instances for the first step are wanted beside the full old pool; no user meets them
    SHIFTING    for each step: instances first, then users, then looks until the analysis says promote or roll back
    FINISHING   the winner gets all the users; when the gateway has applied that, the loser is drained
    PROMOTED, ROLLED_BACK

The outcome is to be written in one transaction. A control plane may be killed before or after it: whoever reads the
store next comes to the same end, because every decision compares what is wanted with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gapless.core.model import BUCKETS, Evidence, Objective, Pool, Rollout, RolloutState, Split, Window
from gapless.rollout import analysis, tally
from gapless.rollout.analysis import Decision, Verdict
from gapless.rollout.commands import decide, steer
from gapless.rollout.observed import Failure, Observed, observe
from gapless.rollout.tally import Standing
from gapless.rollout.wanted import end_split, new_needed, plan_of, pool_of, split_of, weight_of

__all__ = ["Act", "Observed", "Outcome", "advance", "observe", "steer"]

START_TRIES = 2
"""Instances that may fail before they are ever ready: one failure may be a taken port, two are the release's."""
START_GRACE = 1.25
"""Of an instance's start limit: the fleet gives up first, and then knows the reason."""
POOL_TIMES = 3
"""Start limits in which a whole pool must be ready: its instances share the machine's processors while they start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """An entry for the change log: what was decided, why, and the numbers behind it."""

    what: str
    why: str
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is to be written, in one transaction. None and () mean unchanged."""

    rollout: Rollout
    split: Split | None = None
    pool: Pool | None = None
    acts: tuple[Act, ...] = ()
    verdict: Verdict | None = None
    """Of this look, for people who watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """All that the next move depends on, beside the rollout."""

    observed: Observed
    verdict: Verdict
    now_at: float
    start_s: float

    def late(self, rollout: Rollout, times: float) -> bool:
        """Has the wait for instances taken so many start limits?"""
        since_at = max(rollout.since_at, self.observed.began_at)
        return self.now_at - since_at > times * self.start_s


_Move = tuple[Rollout, tuple[Act, ...]]


def advance(
    rollout: Rollout,
    observed: Observed,
    canary: Window,
    stable: Window,
    objective: Objective,
    now_at: float,
    *,
    start_s: float = 30.0,
) -> Outcome:
    """The rollout after this moment.

    `canary` and `stable` are what `rollout.after` and `rollout.before` answered between `rollout.evidence.until_at`
    (nothing when that is 0) and `now_at`. `start_s` is the service's start limit for one instance. Calling it again
    with the outcome's rollout and the same observation changes nothing more.
    """
    if rollout.state.ended:
        return Outcome(rollout=rollout)
    rollout = _applied(rollout, observed, now_at)
    rollout, verdict = _look(rollout, observed, canary, stable, objective, now_at)
    scene = _Scene(observed=observed, verdict=verdict, now_at=now_at, start_s=start_s)
    acts: tuple[Act, ...] = ()
    while moved := _MOVES[rollout.state](rollout, scene):
        rollout, more = moved
        acts += more
    split, pool = split_of(rollout, observed, not scene.late(rollout, POOL_TIMES)), pool_of(rollout, observed)
    return Outcome(
        rollout=rollout,
        split=split if split != observed.split else None,
        pool=pool if pool != observed.pool else None,
        acts=acts,
        verdict=verdict if rollout.state is RolloutState.SHIFTING else None,
    )


def _applied(rollout: Rollout, observed: Observed, now_at: float) -> Rollout:
    """Note that the gateway has applied the present step: its samples and its hold begin now."""
    waiting = rollout.state is RolloutState.SHIFTING and not rollout.applied_at
    if not waiting or observed.applied != split_of(rollout, observed):
        return rollout
    evidence = replace(rollout.evidence, step_requests=0, step_stable=0)
    return replace(rollout, applied_at=now_at, evidence=evidence)


def _look(
    rollout: Rollout, observed: Observed, canary: Window, stable: Window, objective: Objective, now_at: float
) -> tuple[Rollout, Verdict]:
    """Count the answers since the last look, once; then judge."""
    standing = _standing(rollout, observed, now_at)
    evidence = rollout.evidence
    if now_at > evidence.until_at and (canary.requests or stable.requests):
        if rollout.state is RolloutState.SHIFTING:
            evidence = tally.count(evidence, canary, stable, rollout.policy, objective, standing)
        elif rollout.state is RolloutState.STARTING:
            evidence = tally.baseline(evidence, stable)
    if now_at != evidence.until_at and _watching(rollout, evidence, canary, stable):
        evidence = replace(evidence, until_at=now_at)
    rollout = replace(rollout, evidence=evidence)
    return rollout, analysis.verdict(evidence, rollout.policy, objective, standing)


def _watching(rollout: Rollout, evidence: Evidence, canary: Window, stable: Window) -> bool:
    """Is there a reason to write a new `until_at`? An idle service should not be written about every second."""
    begun = rollout.state in (RolloutState.STARTING, RolloutState.SHIFTING)
    return begun and bool(not evidence.until_at or canary.requests or stable.requests)


def _standing(rollout: Rollout, observed: Observed, now_at: float) -> Standing:
    return Standing(
        weight=weight_of(rollout),
        held_s=now_at - rollout.applied_at if rollout.applied_at else 0.0,
        waited_s=now_at - rollout.since_at,
        shifted_s=now_at - rollout.shifted_at if rollout.shifted_at else 0.0,
        capacity=_share(observed.ready.get(rollout.after, 0), observed.ready.get(rollout.before, 0)),
        unhealthy=observed.unhealthy,
        paused=rollout.paused,
    )


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part else 0.0


# --- STARTING ---


def _start(rollout: Rollout, scene: _Scene) -> _Move | None:
    ready, needed = _ready(rollout, scene), new_needed(rollout)
    if ready < needed:
        return _refuse(rollout, scene)
    if rollout.paused:
        return None
    why = f"{ready} of {needed} instances of {rollout.after} are ready"
    if rollout.winner == rollout.after:
        return _win(replace(rollout, shifted_at=scene.now_at), rollout.reason, scene)
    return _shift_to(replace(rollout, state=RolloutState.SHIFTING), 0, why, scene)


def _refuse(rollout: Rollout, scene: _Scene) -> _Move | None:
    """Back, when the instances that are awaited do not come."""
    failure = _start_failure(rollout, scene)
    return _go_back(rollout, failure.reason, scene, failure.log) if failure else None


def _start_failure(rollout: Rollout, scene: _Scene) -> Failure | None:
    failures = _failures(rollout, scene)
    last = failures[-1] if failures else Failure(at=scene.now_at, reason=scene.observed.waiting)
    told = f": {last.reason}" if last.reason else ""
    if len(failures) >= START_TRIES:
        reason = _twice(rollout, failures)
    elif not _ready(rollout, scene) and scene.late(rollout, START_GRACE):
        reason = f"no instance of {rollout.after} became ready within {scene.start_s:g} s{told}"
    elif scene.late(rollout, POOL_TIMES):
        reason = (
            f"{_ready(rollout, scene)} of {new_needed(rollout)} instances of {rollout.after} became ready in time{told}"
        )
    else:
        return None
    return replace(last, reason=reason)


def _failures(rollout: Rollout, scene: _Scene) -> list[Failure]:
    """Of this step's instances, those that were never ready."""
    return [failure for failure in scene.observed.failures if failure.at >= rollout.since_at]


def _twice(rollout: Rollout, failures: list[Failure]) -> str:
    told = f": {failures[-1].reason}" if failures[-1].reason else ""
    return f"{len(failures)} instances of {rollout.after} failed before they were ready{told}"


def _ready(rollout: Rollout, scene: _Scene) -> int:
    return scene.observed.ready.get(rollout.after, 0)


# --- SHIFTING ---


def _shift(rollout: Rollout, scene: _Scene) -> _Move | None:
    if harm := _harm(rollout, scene):
        return _go_back(rollout, harm, scene)
    if rollout.winner == rollout.after:
        if _ready(rollout, scene) < rollout.instances:
            return _refuse(rollout, scene)
        return _win(rollout, rollout.reason, scene)
    if rollout.target > rollout.step:
        return _await(rollout, scene)
    if rollout.paused or not rollout.applied_at or scene.verdict.decision is not Decision.PROMOTE:
        return None
    return _pass(rollout, scene)


def _harm(rollout: Rollout, scene: _Scene) -> str:
    """Why the users must go back at once; empty when nothing says so."""
    if scene.verdict.decision is Decision.ROLLBACK:
        return scene.verdict.reason
    if _deserted(rollout, scene):
        return f"no ready instance of {rollout.after} is left for its users"
    failures = _failures(rollout, scene)
    return _twice(rollout, failures) if len(failures) >= START_TRIES else ""


def _deserted(rollout: Rollout, scene: _Scene) -> bool:
    return not _ready(rollout, scene) and scene.observed.ready.get(rollout.before, 0) > 0


def _pass(rollout: Rollout, scene: _Scene) -> _Move:
    """The step is passed: on to the next one, or to the end."""
    if rollout.step + 1 == len(plan_of(rollout)):
        return _win(rollout, scene.verdict.reason, scene)
    rollout = replace(rollout, target=rollout.step + 1)
    if _ready(rollout, scene) >= new_needed(rollout):
        return _shift_to(rollout, rollout.target, scene.verdict.reason, scene)
    what = f"{_title(rollout)}: step {rollout.step + 1} passed, {new_needed(rollout)} instances wanted for the next"
    return replace(rollout, since_at=scene.now_at), (_act(rollout, what, scene.verdict.reason, scene),)


def _await(rollout: Rollout, scene: _Scene) -> _Move | None:
    ready, needed = _ready(rollout, scene), new_needed(rollout)
    if ready < needed:
        return _refuse(rollout, scene)
    if rollout.paused:
        return None
    return _shift_to(rollout, rollout.target, f"{ready} of {needed} instances of {rollout.after} are ready", scene)


def _shift_to(rollout: Rollout, step: int, why: str, scene: _Scene) -> _Move:
    moved = replace(
        rollout,
        step=step,
        target=step,
        since_at=scene.now_at,
        applied_at=0.0,
        shifted_at=rollout.shifted_at or scene.now_at,
    )
    weight = weight_of(moved)
    what = f"{_title(rollout)}: {weight * 100 / BUCKETS:g} % of the users to {rollout.after}"
    numbers = {"next_weight": weight / BUCKETS}
    return moved, (_act(rollout, what, why, scene, numbers),)


# --- FINISHING ---


def _win(rollout: Rollout, reason: str, scene: _Scene) -> _Move:
    what = f"{_title(rollout)}: {rollout.after} wins and gets all the users"
    act = _act(rollout, what, reason, scene)
    decided_at = rollout.decided_at
    rollout = decide(rollout, rollout.after, reason, scene.now_at)
    return replace(rollout, decided_at=decided_at or scene.now_at), (act,)


def _go_back(rollout: Rollout, reason: str, scene: _Scene, log: str = "") -> _Move:
    done = f"back to {rollout.before}" if rollout.shifted_at else f"{rollout.after} refused, no user has met it"
    act = _act(rollout, f"{_title(rollout)}: {done}", reason, scene)
    return decide(rollout, rollout.before, reason, scene.now_at, log), (act,)


def _finish(rollout: Rollout, scene: _Scene) -> _Move | None:
    if not rollout.applied_at:
        return _settle(rollout, scene)
    loser = rollout.before if rollout.winner == rollout.after else rollout.after
    if scene.observed.running.get(loser, 0):
        return None
    state = RolloutState.PROMOTED if rollout.winner == rollout.after else RolloutState.ROLLED_BACK
    ended = replace(rollout, state=state, ended_at=scene.now_at)
    what = f"{_title(rollout)}: {'refused' if ended.refused else state}"
    numbers = {"took_s": scene.now_at - rollout.started_at}
    if rollout.shifted_at:
        numbers["decided_after_s"] = rollout.decided_at - rollout.shifted_at
    return ended, (_act(rollout, what, rollout.reason, scene, numbers),)


def _settle(rollout: Rollout, scene: _Scene) -> _Move | None:
    """The loser may be drained once the gateway has moved the last user, and the winner can carry them all."""
    if rollout.winner == rollout.after and _ready(rollout, scene) < rollout.instances:
        if not scene.late(rollout, POOL_TIMES) and not _deserted(rollout, scene):
            return None
        reason = f"only {_ready(rollout, scene)} of {rollout.instances} instances of {rollout.after} stayed ready"
        return _go_back(rollout, reason, scene)
    if rollout.shifted_at and scene.observed.applied != end_split(rollout):
        return None
    return replace(rollout, applied_at=scene.now_at), ()


def _title(rollout: Rollout) -> str:
    return f"rollout {rollout.number} of {rollout.service}"


def _act(rollout: Rollout, what: str, why: str, scene: _Scene, numbers: Mapping[str, float] | None = None) -> Act:
    instances = {"ready": _ready(rollout, scene), "needed": new_needed(rollout)}
    return Act(what=what, why=why, numbers={**scene.verdict.numbers, **instances, **(numbers or {})})


_MOVES: Mapping[RolloutState, Callable[[Rollout, _Scene], _Move | None]] = {
    RolloutState.STARTING: _start,
    RolloutState.SHIFTING: _shift,
    RolloutState.FINISHING: _finish,
    RolloutState.PROMOTED: lambda rollout, scene: None,
    RolloutState.ROLLED_BACK: lambda rollout, scene: None,
}

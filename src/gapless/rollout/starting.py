"""SCHEDULED: its time comes. STARTING: instances first, and only then users. Also what is awaited later: each step's
instances."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.model import Rollout, RolloutState
from gapless.rollout.forward import shift_to, win
from gapless.rollout.holds import Hold, hold, leash, wait
from gapless.rollout.observed import Failure
from gapless.rollout.scene import POOL_TIMES, Move, Scene, act, go_back
from gapless.rollout.wanted import new_needed

START_TRIES = 2
"""Instances that may fail before they are ever ready: one failure may be a taken port, two are the release's."""
START_GRACE = 1.25
"""Of an instance's start limit: the fleet gives up first, and then knows the reason."""


def begin(rollout: Rollout, scene: Scene) -> Move | None:
    if held := hold(rollout, scene):
        return wait(rollout, held, scene)
    begun = replace(
        rollout, state=RolloutState.STARTING, waiting="", started_at=scene.now_at, since_at=scene.now_at, begin_at=0.0
    )
    return begun, (act(rollout, f"it begins: {rollout.before} → {rollout.after}", rollout.waiting or "now", scene),)


def start(rollout: Rollout, scene: Scene) -> Move | None:
    ready, needed = scene.ready(rollout), new_needed(rollout)
    if ready < needed:
        return refuse(rollout, scene)
    why = f"{ready} of {needed} instances of {rollout.after} are ready"
    if rollout.winner == rollout.after:
        if held := leash(scene):
            return wait(rollout, held, scene)
        return win(replace(rollout, shifted_at=scene.now_at), rollout.reason, scene)
    gates = scene.observed.gates
    if gates.refusal:
        return go_back(rollout, gates.refusal, scene, gates.log)
    if not gates.open:
        return wait(rollout, Hold(why=f"gates: {', '.join(gates.waiting)}", told=False), scene)
    if held := hold(rollout, scene, 0):
        return wait(rollout, held, scene)
    return shift_to(replace(rollout, state=RolloutState.SHIFTING), 0, why, scene)


def refuse(rollout: Rollout, scene: Scene) -> Move | None:
    """Back, when the instances that are awaited do not come. Those that were there and are lost while it waits for
    something else have their time anew."""
    if rollout.waiting:
        return wait(rollout, None, scene)
    failure = _start_failure(rollout, scene)
    return go_back(rollout, failure.reason, scene, failure.log) if failure else None


def _start_failure(rollout: Rollout, scene: Scene) -> Failure | None:
    failures = scene.failures(rollout)
    last = failures[-1] if failures else Failure(at=scene.now_at, reason=scene.observed.waiting)
    told = f": {last.reason}" if last.reason else ""
    if len(failures) >= START_TRIES:
        reason = failed_again(rollout, failures)
    elif not scene.ready(rollout) and scene.late(rollout, START_GRACE):
        reason = f"no instance of {rollout.after} became ready within {scene.start_s:g} s{told}"
    elif scene.late(rollout, POOL_TIMES):
        reason = (
            f"{scene.ready(rollout)} of {new_needed(rollout)} instances of {rollout.after} became ready in time{told}"
        )
    else:
        return None
    return replace(last, reason=reason)


def failed_again(rollout: Rollout, failures: list[Failure]) -> str:
    told = f": {failures[-1].reason}" if failures[-1].reason else ""
    return f"{len(failures)} instances of {rollout.after} failed before they were ready{told}"

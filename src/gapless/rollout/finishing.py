"""FINISHING: the winner has all the users; when the gateway has applied that, the loser is drained."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.model import Rollout, RolloutState
from gapless.rollout.holds import leash, wait
from gapless.rollout.scene import POOL_TIMES, Move, Scene, act, go_back
from gapless.rollout.wanted import end_split, new_needed, whole_plan


def finish(rollout: Rollout, scene: Scene) -> Move | None:
    if not rollout.applied_at:
        return _settle(rollout, scene)
    loser = rollout.before if rollout.winner == rollout.after else rollout.after
    gone = rollout.keeping or not scene.observed.running.get(loser, 0)
    if not gone or not _whole(rollout, scene):
        return None
    state = RolloutState.PROMOTED if rollout.winner == rollout.after else RolloutState.ROLLED_BACK
    ended = replace(rollout, state=state, ended_at=scene.now_at)
    what = "called off before it began" if ended.called_off else "refused" if ended.refused else str(state)
    numbers = {"took_s": scene.now_at - rollout.started_at}
    if rollout.shifted_at:
        numbers["decided_after_s"] = rollout.decided_at - rollout.shifted_at
    return ended, (act(rollout, what, rollout.reason, scene, numbers),)


def _whole(rollout: Rollout, scene: Scene) -> bool:
    """Where instances may be missing on the way, the end is when they are back, as soon as they can be."""
    if whole_plan(rollout).old_at_start == rollout.instances or scene.late(rollout, POOL_TIMES):
        return True
    return scene.observed.ready.get(rollout.winner, 0) >= rollout.instances


def _settle(rollout: Rollout, scene: Scene) -> Move | None:
    """The loser may be drained once the gateway has moved the last user, and the winner can carry them all."""
    if rollout.winner == rollout.after and scene.ready(rollout) < new_needed(rollout):
        if not scene.late(rollout, POOL_TIMES) and not scene.deserted(rollout):
            return wait(rollout, None, scene)
        reason = f"only {scene.ready(rollout)} of {new_needed(rollout)} instances of {rollout.after} stayed ready"
        return go_back(rollout, reason, scene)
    if rollout.shifted_at and scene.observed.applied != end_split(rollout):
        return wait(rollout, None, scene)  # of a train, the others must not take it for one that only waits for them
    if rollout.winner == rollout.after and (held := leash(scene)):
        return wait(rollout, held, scene)
    return replace(rollout, waiting="", applied_at=scene.now_at, since_at=scene.now_at), ()

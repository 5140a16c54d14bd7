"""The moves that give users to the new release: to the next step, and to the end."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.model import BUCKETS, Rollout
from gapless.rollout.commands import decide
from gapless.rollout.scene import Move, Scene, act
from gapless.rollout.wanted import plan_of, weight_of


def shift_to(rollout: Rollout, step: int, why: str, scene: Scene) -> Move:
    pause_s = plan_of(rollout)[step].pause_s
    moved = replace(
        rollout,
        step=step,
        target=step,
        since_at=scene.now_at,
        applied_at=0.0,
        shifted_at=rollout.shifted_at or scene.now_at,
        waiting="",
        paused=pause_s is not None,
        paused_until_at=scene.now_at + pause_s if pause_s else 0.0,
    )
    weight = weight_of(moved)
    what = f"{weight * 100 / BUCKETS:g} % of the users to {rollout.after}{_pausing(rollout, pause_s)}"
    numbers = {"next_weight": weight / BUCKETS}
    return moved, (act(rollout, what, why, scene, numbers),)


def _pausing(rollout: Rollout, pause_s: float | None) -> str:
    if pause_s is None:
        return ""
    until = f"for {pause_s:g} s" if pause_s else f"until `gapless rollout {rollout.train or rollout.service} resume`"
    return f"; pauses {until}"


def win(rollout: Rollout, reason: str, scene: Scene) -> Move:
    what = f"{rollout.after} wins and gets all the users"
    told = act(rollout, what, reason, scene)
    decided_at = rollout.decided_at
    rollout = decide(rollout, rollout.after, reason, scene.now_at)
    return replace(rollout, decided_at=decided_at or scene.now_at), (told,)

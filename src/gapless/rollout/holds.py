"""What holds a rollout back from going forward, beside evidence and instances. Pure. Nothing here ever holds back a way
back: harm is looked for, and acted upon, whatever a rollout waits for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gapless.core.model import BUCKETS, Rollout
from gapless.rollout.scene import Move, Scene, act
from gapless.rollout.wanted import plan_of

PAUSED = "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why it does not go on. `told`: worth an entry in the change log."""

    why: str
    told: bool = True


def hold(rollout: Rollout, scene: Scene, step: int | None = None) -> Hold | None:
    """What holds it back from going forward now; from coming to `step`, if one is given."""
    if rollout.paused:
        return Hold(why=PAUSED, told=False)
    if scene.now_at < rollout.begin_at:
        return Hold(why=f"it begins at {moment(rollout.begin_at)}")
    if scene.closed and not rollout.override:
        return Hold(why=str(scene.closed))
    if step is not None and (asked := unapproved(rollout, step)):
        return Hold(why=asked)
    return leash(scene)


def leash(scene: Scene) -> Hold | None:
    """What the others of its train say."""
    return Hold(why=scene.leash.held, told=False) if scene.leash.held else None


def unapproved(rollout: Rollout, step: int) -> str:
    """Whose approval is missing before users may come to a step; empty when none is."""
    plan = plan_of(rollout)
    if step >= len(plan) or not plan[step].approve or any(approval.step == step for approval in rollout.approvals):
        return ""
    share = f"{plan[step].weight * 100 / BUCKETS:g} % of the users"
    return f"approval of {share}: `gapless rollout {rollout.train or rollout.service} approve`"


def wait(rollout: Rollout, held: Hold | None, scene: Scene) -> Move | None:
    """Note what it waits for. When that is over and it still does not move, its patience begins anew."""
    why = held.why if held else ""
    if why == rollout.waiting:
        return None
    if held is None:
        return replace(rollout, waiting="", since_at=scene.now_at), ()
    waiting = replace(rollout, waiting=why)
    return waiting, (act(rollout, "waits", why, scene),) if held.told else ()


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%a %Y-%m-%d %H:%M UTC")

"""What people may ask of a rollout under way. Pure: each returns the rollout as it then is, and raises
InvalidTransition with a sentence when it is too late. Asking for what already is changes nothing, so that a request can
be repeated."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.errors import InvalidTransition
from gapless.core.model import BUCKETS, Approval, Rollout, RolloutState
from gapless.rollout.wanted import plan_of

VERBS = ("pause", "resume", "approve", "skip", "promote", "abort")
FORWARD = ("approve", "skip", "promote", "resume")
"""Those after which it may go forward: they may say why no window or freeze is to hold it back."""


def pause(rollout: Rollout) -> Rollout:
    """Move no more users until `resume`. It is still watched, and rolled back when it does harm."""
    _moving(rollout, "paused")
    return replace(rollout, paused=True, paused_until_at=0.0)


def resume(rollout: Rollout, now_at: float) -> Rollout:
    """Go on, from the present step's share; the policy's patience begins anew."""
    _moving(rollout, "resumed")
    if not rollout.paused:
        return rollout
    resumed = replace(rollout, paused=False, paused_until_at=0.0, since_at=now_at, waiting="")
    return resumed if rollout.by_hand < 0 else replace(resumed, by_hand=-1, applied_at=0.0)


def abort(rollout: Rollout, reason: str, now_at: float) -> Rollout:
    """Roll back now, or call off what has not begun. Possible as long as the old instances are there."""
    draining_old = rollout.state is RolloutState.FINISHING and rollout.winner == rollout.after and rollout.applied_at
    if rollout.state.ended or draining_old:
        raise InvalidTransition(
            f"{_name(rollout)} cannot be aborted: {_standing(rollout)}",
            f"To go back, deploy {rollout.before} again: `gapless rollback {rollout.service}`.",
        )
    going_back = rollout.state is RolloutState.FINISHING and rollout.winner == rollout.before
    if going_back:
        return rollout
    called_off = rollout.state is RolloutState.SCHEDULED
    return replace(decide(rollout, rollout.before, reason, now_at), called_off=called_off, begin_at=0.0)


def promote(rollout: Rollout, now_at: float, reason: str = "promoted by hand") -> Rollout:
    """Skip the steps that are left: all users move as soon as all instances are ready. Until then it is still rolled
    back when it does harm."""
    _moving(rollout, "promoted")
    if rollout.winner == rollout.after:
        return rollout
    return replace(
        resume(rollout, now_at),
        winner=rollout.after,
        reason=reason,
        decided_at=now_at,
        since_at=now_at,
        begin_at=0.0,
        waiting="",
    )


def approve(rollout: Rollout, who: str, why: str, now_at: float) -> Rollout:
    """Let users come to the next step, which waits for that."""
    _moving(rollout, "approved")
    step = rollout.step + 1
    if any(approval.step == step for approval in rollout.approvals):
        return rollout
    plan = plan_of(rollout)
    if step >= len(plan) or not plan[step].approve:
        gates = [f"{each.weight * 100 / BUCKETS:g} %" for each in plan if each.approve]
        raise InvalidTransition(
            f"{_name(rollout)} needs no approval now (it needs some before: {', '.join(gates) or 'none of its steps'})",
            f"`gapless rollout {rollout.service} promote --step` passes the present step without evidence.",
        )
    approval = Approval(step=step, who=who, why=why, at=now_at)
    return replace(rollout, approvals=(*rollout.approvals, approval))


def skip(rollout: Rollout, who: str, why: str, now_at: float) -> Rollout:
    """Pass the present step without waiting for evidence, its hold or an approval. Instances are still awaited, and it
    is still rolled back when it does harm."""
    _moving(rollout, "moved on")
    rollout = replace(resume(rollout, now_at), begin_at=0.0, skipped=rollout.step)
    step = rollout.step + 1
    if step < len(plan_of(rollout)) and plan_of(rollout)[step].approve:
        rollout = approve(rollout, who, why, now_at)
    return rollout


def steer(rollout: Rollout, verb: str, reason: str, now_at: float, who: str = "") -> Rollout:
    """One of `VERBS`, by name. Raises InvalidTransition."""
    match verb:
        case "pause":
            return pause(rollout)
        case "resume":
            return resume(rollout, now_at)
        case "abort":
            return abort(rollout, reason, now_at)
        case "promote":
            return promote(rollout, now_at, reason)
        case "approve":
            return approve(rollout, who, reason, now_at)
        case "skip":
            return skip(rollout, who, reason, now_at)
        case _:
            raise InvalidTransition(f"a rollout cannot be {verb!r}", f"Ask for one of: {', '.join(VERBS)}.")


def decide(rollout: Rollout, winner: str, reason: str, now_at: float, log: str = "") -> Rollout:
    """The rollout with its winner, who gets all the users; then the other one is drained."""
    return replace(
        rollout,
        state=RolloutState.FINISHING,
        winner=winner,
        reason=reason,
        log=log,
        decided_at=now_at,
        since_at=now_at,
        applied_at=0.0,
        paused=False,
        paused_until_at=0.0,
        by_hand=-1,
        waiting="",
    )


def _moving(rollout: Rollout, done: str) -> None:
    if rollout.state not in (RolloutState.SCHEDULED, RolloutState.STARTING, RolloutState.SHIFTING):
        raise InvalidTransition(
            f"{_name(rollout)} cannot be {done}: {_standing(rollout)}",
            f"Begin another one: `gapless deploy {rollout.service}`.",
        )


def _name(rollout: Rollout) -> str:
    return f"rollout {rollout.number} of {rollout.service}"


def _standing(rollout: Rollout) -> str:
    if rollout.state.ended:
        return f"it has ended ({rollout.state})"
    return f"it is already decided for {rollout.winner} ({rollout.reason})"

"""Several rollouts that move together. Pure.

- Nobody comes to a step before all have passed the one before, whether by evidence or by hand. Within a step those that
  others call come first. Who has fewer steps waits at its last one.
- All win together, and no old pool is given up before all have won: until then everybody can go back.
- When one goes back, for whatever reason, all do: callers before those they call, who wait for that, but not for long.

Each look takes the next moves of all members twice: first held, which tells who would go; then those that may are let
go. So what holds for a single rollout holds for each member, and a control plane that is killed loses nothing: all of
this is decided anew from the records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gapless.core.errors import InvalidTransition
from gapless.core.model import Objective, Reading, Rollout, RolloutState, Window
from gapless.rollout import controller
from gapless.rollout.calendar import Closed
from gapless.rollout.commands import abort
from gapless.rollout.observed import Observed
from gapless.rollout.scene import FREE, Act, Leash, Outcome, title
from gapless.rollout.wanted import plan_of

BACK_ORDER_S = 5.0
"""How long a service waits for its callers to have gone back: a release that does harm does it meanwhile."""
BEGIN, WIN, SETTLE, DONE = -1, 1_000_000, 1_000_001, 1_000_002
"""Moves beside the steps, which are counted from 0, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A rollout with all that its next move depends on (see `controller.advance`)."""

    rollout: Rollout
    observed: Observed
    canary: Window
    stable: Window
    objective: Objective
    start_s: float = 30.0
    readings: Sequence[Reading] | None = None
    needs: frozenset[str] = frozenset()
    """Services that it calls, also by way of others."""

    def advance(self, now_at: float, closed: Closed | None, leash: Leash) -> Outcome:
        return controller.advance(
            self.rollout,
            self.observed,
            self.canary,
            self.stable,
            self.objective,
            now_at,
            start_s=self.start_s,
            readings=self.readings,
            closed=closed,
            leash=leash,
        )


def advance(members: Sequence[Member], now_at: float, closed: Closed | None = None) -> list[Outcome]:
    """The next moves of rollouts that belong together, in the order of `members`; of a single one, its own. What comes
    out is to be written in one transaction."""
    if len(members) == 1:
        return [members[0].advance(now_at, closed, FREE)]
    leash = Leash(held=f"the others of train {members[0].rollout.train}")
    held = [member.advance(now_at, closed, leash) for member in members]
    if reason := _going_back([outcome.rollout for outcome in held]):
        return _all_back(members, now_at, closed, reason)
    return [
        member.advance(now_at, closed, FREE) if _may(place, members, held, leash) else held[place]
        for place, member in enumerate(members)
    ]


def _going_back(rollouts: Sequence[Rollout]) -> str:
    """Why all must go back, if one does."""
    for rollout in rollouts:
        if rollout.winner == rollout.before:
            return f"train {rollout.train}: {rollout.service} goes back: {rollout.reason}"
    return ""


def _all_back(members: Sequence[Member], now_at: float, closed: Closed | None, reason: str) -> list[Outcome]:
    turned = [replace(member, rollout=_turned(member, now_at, closed, reason)) for member in members]
    outcomes = [member.advance(now_at, closed, _order(member, turned, now_at)) for member in turned]
    return [
        replace(outcome, acts=(*_told(member, after, reason), *outcome.acts))
        for member, after, outcome in zip(members, turned, outcomes, strict=True)
    ]


def _turned(member: Member, now_at: float, closed: Closed | None, reason: str) -> Rollout:
    """Those that go back by themselves do so for their own reason; the others for that one."""
    own = member.advance(now_at, closed, Leash(held="back"))
    if own.rollout.winner == own.rollout.before or member.rollout.state.ended:
        return member.rollout
    try:
        return abort(member.rollout, reason, now_at)
    except InvalidTransition:  # its old pool is being drained: all had won, and then another service left the system
        return member.rollout


def _told(member: Member, after: Member, reason: str) -> tuple[Act, ...]:
    if member.rollout == after.rollout:
        return ()
    what = f"{title(after.rollout)}: back to {after.rollout.before}"
    return (Act(what=what, why=reason, numbers={"ready": member.observed.ready.get(after.rollout.after, 0)}),)


def _order(member: Member, members: Sequence[Member], now_at: float) -> Leash:
    """Callers first: a new release may count on what it calls, and an old one never on what is new."""
    decided_at = member.rollout.decided_at or now_at
    waits = any(_still_there(other.rollout) for other in members if member.rollout.service in other.needs)
    return Leash(held="back", back_held=waits and now_at - decided_at < BACK_ORDER_S)


def _still_there(rollout: Rollout) -> bool:
    """Has users on its new release, as far as the gateway has told."""
    return bool(rollout.shifted_at) and not rollout.state.ended and not (_is_back(rollout) and rollout.applied_at)


def _is_back(rollout: Rollout) -> bool:
    return rollout.state is RolloutState.FINISHING and rollout.winner == rollout.before


def _may(place: int, members: Sequence[Member], held: Sequence[Outcome], leash: Leash) -> bool:
    """May this member make its next move?"""
    move = _next(held[place].rollout)
    if not _clear(held[place], leash):
        return False
    others = [outcome for other, outcome in enumerate(held) if other != place]
    together = all(_made(o.rollout, move) or (_next(o.rollout) >= move and _clear(o, leash)) for o in others)
    return together and all(_ahead(o.rollout, move) for o in others if o.rollout.service in members[place].needs)


def _clear(outcome: Outcome, leash: Leash) -> bool:
    """Nothing holds it but the others."""
    return outcome.rollout.waiting == leash.held


def _next(rollout: Rollout) -> int:
    match rollout.state:
        case RolloutState.SCHEDULED:
            return BEGIN
        case RolloutState.STARTING | RolloutState.SHIFTING:
            last = rollout.step + 1 == len(plan_of(rollout))
            return WIN if last or rollout.winner == rollout.after else rollout.step + 1
        case RolloutState.FINISHING:
            return DONE if rollout.applied_at else SETTLE
        case _:
            return DONE


def _made(rollout: Rollout, move: int) -> bool:
    """Has it made this move already?"""
    if move == BEGIN:
        return rollout.state is not RolloutState.SCHEDULED
    if move >= WIN:
        return _next(rollout) > move
    return rollout.step >= move or _next(rollout) > WIN


def _ahead(rollout: Rollout, move: int) -> bool:
    """Of one that is called: it is where this move leads, and the gateway knows. Before the end there is no order."""
    if move in (BEGIN, WIN, SETTLE, DONE):
        return True
    there = rollout.step >= min(move, len(plan_of(rollout)) - 1)
    return _next(rollout) > WIN or (there and bool(rollout.applied_at))


def closure(needs: Mapping[str, Sequence[str]], service: str) -> frozenset[str]:
    """All services that one calls, also by way of others."""
    found: set[str] = set()
    waiting = list(needs.get(service, ()))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs.get(name, ())
    return frozenset(found - {service})

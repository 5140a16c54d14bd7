"""`gapless undo NUMBER`: takes a recorded change back, whatever it was, by the verb that does the opposite. So code is
moved by a rollout, configuration is checked by the instances, and the undoing is a change that can be undone."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gapless.control.commands import Author, Commands
from gapless.control.configure import ConfigCommands, Wanted
from gapless.control.records import KINDS, Records, persist
from gapless.control.rollouts import RolloutCommands
from gapless.control.splits import SplitCommands
from gapless.core import codec
from gapless.core.errors import InvalidTransition, UnknownName
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import Change, Rollout, RolloutState, Service, Split, Undo
from gapless.core.ports import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """The change that took another one back; `already`: before this was asked for. `rollout`: under way by it."""

    change: Change
    already: bool = False
    rollout: Rollout | None = None


def undone_by(changes: Mapping[int, Change], number: int) -> Change | None:
    """The change that took this one back, unless that was taken back itself."""
    found = [each for each in changes.values() if each.undoes == number]
    return next((each for each in found if undone_by(changes, each.number) is None), None)


def later_on_the_same(
    changes: Mapping[int, Change], change: Change, came_to_nothing: Callable[[Change], bool]
) -> list[Change]:
    """Changes after it that rest on what it did, oldest first. What was taken back again rests on nothing, nor does
    what took it back, nor what came to nothing."""
    return [
        each
        for number, each in sorted(changes.items())
        if number > change.number
        and _same(each, change)
        and not (each.undoes or undone_by(changes, number) or came_to_nothing(each))
    ]


def _same(each: Change, change: Change) -> bool:
    if not (each.undo and change.undo) or (each.service, each.undo.act) != (change.service, change.undo.act):
        return False
    match change.undo.act:
        case "service" | "records":
            return bool(set(each.undo.after) & set(change.undo.after))
        case "rollout":
            return each.rollout != change.rollout
        case other:
            return other == "config"


class Undoing:
    """Acts by the verbs of the others."""

    def __init__(
        self,
        records: Records,
        commands: Commands,
        rollouts: RolloutCommands,
        config: ConfigCommands,
        splits: SplitCommands,
        world: World,
        events: Events,
    ) -> None:
        self._records = records
        self._rollouts = rollouts
        self._commands = commands
        self._config = config
        self._splits = splits
        self._world = world
        self._events = events

    async def undo(self, number: int, author: Author) -> Undone:
        """Raises UnknownName; InvalidTransition when it cannot be undone, or something later rests on it; Busy; and
        what the opposite verb raises. Asking again changes nothing."""
        changes = {each.number: each for each in self._records.changes(limit=sys.maxsize)}
        change = changes.get(number)
        if change is None:
            raise UnknownName(f"there is no change {number}", "See `gapless changes` for those that are kept.")
        if by := undone_by(changes, number):
            return Undone(change=by, already=True)
        undo = change.undo or self._refuse(changes, change)
        if later := later_on_the_same(changes, change, self._came_to_nothing):
            raise _rests_on(change, later)
        why = author.why or f"undo of change {number}: {change.what}"
        rollout = await self._acts()[undo.act](change, undo, replace(author, why=why, undoes=number))
        return Undone(change=self._newest(number), rollout=rollout)

    def offers(self, changes: Sequence[Change]) -> frozenset[int]:
        """Numbers of those that `undo` would take back now, as far as can be seen without trying. `changes`: the newest
        ones, so that whatever rests on one of them is among them."""
        alike: dict[tuple[str, str], dict[int, Change]] = {}
        undoings = self._records.undoings()
        for each in changes:
            if each.undo and not undone_by(undoings, each.number):
                alike.setdefault((each.service, each.undo.act), {})[each.number] = each
        return frozenset(
            number
            for group in alike.values()
            for number, each in group.items()
            if self._has_effect(each) and not later_on_the_same(group, each, self._came_to_nothing)
        )

    def _has_effect(self, change: Change) -> bool:
        assert change.undo is not None
        match change.undo.act:
            case "rollout" | "steer" as act:
                return self._rollout_has_effect(change, steered=act == "steer")
            case "share":
                active = self._commands.active(change.service)
                return active is not None and active.paused and active.by_hand == change.undo.after_number
            case "config":
                config = self._records.config(change.service)
                tried = config.staging.number if config.staging else 0
                return change.undo.after_number in (config.current, tried)
        return True

    def _rollout_has_effect(self, change: Change, *, steered: bool) -> bool:
        rollout = next((r for r in self._records.rollouts(change.service) if r.number == change.rollout), None)
        if rollout is None or not rollout.state.ended or steered:
            return rollout is not None and not rollout.state.ended
        split = self._records.split(change.service)
        return rollout.state is RolloutState.PROMOTED and split is not None and split.stable == rollout.after

    def _came_to_nothing(self, change: Change) -> bool:
        """A rollout that was rolled back, a revision that was tried and abandoned."""
        if change.undo and change.undo.act == "config":
            return change.undo.after_number in self._records.config(change.service).abandoned
        return any(
            rollout.number == change.rollout and rollout.state is RolloutState.ROLLED_BACK
            for rollout in self._records.rollouts(change.service)
        )

    def _acts(self) -> Mapping[str, Callable[[Change, Undo, Author], Awaitable[Rollout | None]]]:
        return {
            "rollout": self._rollout,
            "steer": self._steer,
            "share": self._share,
            "service": self._service,
            "config": self._configuration,
            "records": self._restore,
        }

    def _newest(self, number: int) -> Change:
        """What took it back: it is the newest of those, since there was none before."""
        return next(each for each in self._records.changes(limit=1_000) if each.undoes == number)

    def _refuse(self, changes: Mapping[int, Change], change: Change) -> Undo:
        remedy = "Do the opposite by its own verb, if there is one."
        begun = [
            each
            for each in changes.values()
            if change.rollout
            and (each.service, each.rollout) == (change.service, change.rollout)
            and each.undo
            and each.undo.act == "rollout"
        ]
        if begun:
            remedy = f"It belongs to rollout {change.rollout}; undo that one: `gapless undo {begun[0].number}`."
        if begun and undone_by(changes, begun[0].number):
            remedy = f"Rollout {change.rollout} was ended by it; to try again: `gapless deploy {change.service}`."
        raise InvalidTransition(f"change {change.number} cannot be undone by itself: {change.what}", remedy)

    async def _rollout(self, change: Change, undo: Undo, author: Author) -> Rollout | None:
        """Back by a rollout: the one under way is ended, or one to the release before begins."""
        found = [each for each in self._records.rollouts(change.service) if each.number == change.rollout]
        if not found:
            raise InvalidTransition(f"rollout {change.rollout} of {change.service} is not kept any more", "Deploy.")
        rollout = found[0]
        if not rollout.state.ended:
            return await self._rollouts.steer(change.service, "abort", author)
        if rollout.state is RolloutState.ROLLED_BACK:
            raise InvalidTransition(
                f"change {change.number} has no effect any more: rollout {rollout.number} of {rollout.service} was "
                f"rolled back ({rollout.reason})",
                f"There is nothing to undo; to try again: `gapless deploy {rollout.service}`.",
            )
        self._refuse_unless_stable(change, rollout)
        return await self._rollouts.rollback(change.service, author)

    def _refuse_unless_stable(self, change: Change, rollout: Rollout) -> None:
        """As when its train was taken back by the number of another member."""
        split = self._records.split(change.service)
        if split is None or split.stable != rollout.after:
            raise InvalidTransition(
                f"change {change.number} has no effect any more: the release of {change.service} is "
                f"{split.stable if split else 'none'}, and not {rollout.after}",
                f"See `gapless changes --service {change.service}` for what came after it.",
            )

    async def _steer(self, change: Change, undo: Undo, author: Author) -> Rollout | None:
        self._under_way(change)
        return await self._rollouts.steer(change.service, undo.verb, author)

    async def _share(self, change: Change, undo: Undo, author: Author) -> None:
        active = self._under_way(change)
        if not active.paused or active.by_hand != undo.after_number:
            raise InvalidTransition(
                f"change {change.number} has no effect any more: the rollout has another share of the users by now",
                f"See `gapless changes --service {change.service}` for what came after it.",
            )
        what = f"undo change {change.number}: {change.what}"
        await self._splits.put_back(active, undo.before_number, author, what)

    def _under_way(self, change: Change) -> Rollout:
        active = self._records.rollout(change.service)
        if active is None or active.number != change.rollout or active.state.ended:
            raise InvalidTransition(
                f"change {change.number} cannot be undone: rollout {change.rollout} of {change.service} has ended",
                f"See `gapless rollout {change.service}`.",
            )
        return active

    async def _service(self, change: Change, undo: Undo, author: Author) -> None:
        service = self._commands.known(change.service)
        fields = _now_of(service)
        _unchanged(change, undo, {f"services/{change.service} {name}": value for name, value in fields.items()})
        import msgspec

        restored = {place.rpartition(" ")[2]: codec.decode(value, Any) for place, value in undo.before.items()}
        former = msgspec.convert({**msgspec.to_builtins(service), **restored}, Service)
        await self._commands.redefine(former, author, f"undo change {change.number}: {change.what}")

    async def _configuration(self, change: Change, undo: Undo, author: Author) -> None:
        config = self._records.config(change.service)
        if config.staging and config.staging.number == undo.after_number:
            await self._config.rollback(change.service, 0, author)
        elif config.current != undo.after_number:
            raise InvalidTransition(
                f"change {change.number} has no effect any more: revision {config.current} of {change.service}'s "
                f"configuration is in force, and not {undo.after_number}",
                f"See `gapless config history {change.service}`; any of them can be gone back to.",
            )
        elif undo.before_number:
            await self._config.rollback(change.service, undo.before_number, author)
        else:
            nothing = {change.service: Wanted(values={})}
            await self._config.replace(nothing, "as before the first", author)

    async def _restore(self, change: Change, undo: Undo, author: Author) -> None:
        async def write() -> None:
            now = {key: self._records.text(key) for key in undo.after}
            _unchanged(change, undo, now)
            values = [_value(key, text) for key, text in undo.before.items() if text]
            gone = [_value(key, text) for key, text in undo.after.items() if not undo.before[key]]
            values += [self._splits.pool_for(split) for split in values if isinstance(split, Split)]
            again = Change(
                number=self._records.next_change(),
                at=self._world.time(),
                who=author.who,
                what=f"undo change {change.number}: {change.what}",
                service=change.service,
                why=author.why,
                ticket=author.ticket,
                undoes=change.number,
            )
            await self._records.write(again, *values, delete=gone)
            self._events(ChangeRecorded(change=again))

        await persist(write)


def _value(key: str, text: str) -> Any:
    kind: type[Any] = KINDS[key.partition("/")[0]]
    return codec.decode(text, kind)


def _now_of(service: Service) -> dict[str, str]:
    import msgspec

    return {name: codec.encode(value).decode() for name, value in msgspec.to_builtins(service).items()}


def _unchanged(change: Change, undo: Undo, now: Mapping[str, str]) -> None:
    """Raises InvalidTransition when something else stands there by now."""
    moved = sorted(place for place, value in undo.after.items() if now.get(place, "") != value)
    if moved:
        raise InvalidTransition(
            f"change {change.number} cannot be undone: {', '.join(moved)} has been changed since",
            "See `gapless changes` for what came after it.",
        )


def _rests_on(change: Change, later: list[Change]) -> InvalidTransition:
    names = "; ".join(f"change {each.number} ({each.what})" for each in later[:3])
    more = f"; and {len(later) - 3} more" if len(later) > 3 else ""
    return InvalidTransition(
        f"change {change.number} cannot be undone: {names}{more} came after it and rests on it",
        f"Undo the latest first: `gapless undo {later[-1].number}`.",
    )

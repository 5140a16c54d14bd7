"""The verbs that move services from one release to another. Each writes what is wanted; the roller does the rest.

Services that are deployed together move as a train: their rollouts are written in one transaction, so that none of them
ever begins without the others, and each verb is one for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gapless.control.commands import Author, Commands
from gapless.control.records import Records, persist
from gapless.core.errors import Busy, ConfigError, Frozen, InvalidTransition, ReleaseError, UnknownName
from gapless.core.events import ChangeRecorded, Events, RolloutChanged
from gapless.core.model import Calendar, Release, Rollout, RolloutState, Service, Train
from gapless.core.ports import World
from gapless.rollout.by_hand import beside, told
from gapless.rollout.calendar import closed
from gapless.rollout.commands import FORWARD, steer
from gapless.rollout.undo import undo

HURRIED = ("skip", "promote")
"""Verbs that are refused while releases may not be moved; what others ask for waits until they may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a deploy asks for one service: a version that is known, or one to be made of a source."""

    service: str
    version: str = ""
    source: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a deploy is to go. `scheduled`: it waits until `begin_at`, and then until it may begin. `override`: why no
    window or freeze is to hold it back."""

    train: str = ""
    scheduled: bool = False
    begin_at: float = 0.0
    override: str = ""


NOW = Terms()


RefuseRisk = Callable[[Sequence[tuple[str, str]]], Awaitable[None]]
"""Raises RiskTooHigh for services and releases that are not to be deployed."""


class RolloutCommands:
    """Acts on the records; nothing here waits for the loops."""

    def __init__(
        self, records: Records, commands: Commands, world: World, events: Events, preflight: RefuseRisk | None = None
    ) -> None:
        self._records = records
        self._commands = commands
        self._world = world
        self._events = events
        self._preflight = preflight

    async def deploy(
        self, name: str, source: Path | None, version: str, env: Mapping[str, str], author: Author, terms: Terms = NOW
    ) -> Rollout:
        """Begin to move a service to a new release. Raises UnknownName, Busy, Frozen, ReleaseError; then nothing
        changes."""
        order = Order(service=name, version=version, source=source, env=env)
        return (await self.deploy_all([order], author, terms))[0]

    async def deploy_all(self, orders: Sequence[Order], author: Author, terms: Terms = NOW) -> list[Rollout]:
        """Begin to move several services as a train, or a single one. Raises as `deploy`, and ConfigError."""
        self.refuse(orders, terms)
        if self._preflight:
            await self._preflight([(order.service, order.version) for order in orders])
        async with self._commands.making:
            releases = [await self._release(order) for order in orders]

            async def write() -> list[Rollout]:
                return await self._begin(orders, releases, author, terms)

            return await persist(write)

    def refuse(self, orders: Sequence[Order], terms: Terms) -> None:
        """Raise what stands against a deploy."""
        names = [order.service for order in orders]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{twice[0]} is named twice", "Name each service once.")
        for name in names:
            self._commands.known(name)
            self._commands.refuse_when_busy(name, scheduled=True)
            self._refuse_when_divided(name)
        self._refuse_train(names, terms.train)
        if not terms.scheduled:
            self.refuse_when_closed(names, terms.override)

    def _refuse_when_divided(self, name: str) -> None:
        split = self._records.split(name)
        if split and (others := beside(split)):
            raise Busy(
                f"{told(others)} of {name}'s users were given by hand to another release than {split.stable}",
                f"`gapless split {name} {split.stable}=100` gives them back.",
            )

    def _refuse_train(self, names: Sequence[str], train: str) -> None:
        if len(names) > 1 and not train:
            raise ConfigError(f"{' and '.join(names)} need a name together", "Give it by `--train NAME`.")
        if train and len(names) == 1:
            raise ConfigError(f"a train of {names[0]} alone is none", "Name the other services, or leave --train out.")
        if train and (self._records.train(train) or self._records.service(train)):
            raise Busy(f"the name {train!r} is taken", "Choose another one for the train: it is never used again.")

    def refuse_when_closed(self, names: Sequence[str], override: str) -> None:
        """Raises Frozen."""
        shut = closed(self.calendars(names), self._world.time())
        if shut and not override:
            raise Frozen(str(shut))

    def calendars(self, names: Sequence[str]) -> list[Calendar]:
        return [calendar for name in names for calendar in self._commands.known(name).calendars]

    async def _release(self, order: Order) -> Release:
        service = self._commands.known(order.service)
        found = self._records.release(order.service, order.version) if order.version and not order.source else None
        return found or await self._commands.make(
            service, order.source or Path(service.source), order.version, order.env
        )

    async def _begin(
        self, orders: Sequence[Order], releases: Sequence[Release], author: Author, terms: Terms
    ) -> list[Rollout]:
        self.refuse(orders, terms)
        rollouts = [
            self.planned(self._commands.known(order.service), release.version, terms)
            for order, release in zip(orders, releases, strict=True)
        ]
        what = [f"deploy {rollout.service} {rollout.after}{_on(terms)}" for rollout in rollouts]
        await self._write(what, author, rollouts, *releases, train=terms.train)
        return rollouts

    def planned(self, service: Service, version: str, terms: Terms = NOW) -> Rollout:
        """The rollout as it would begin. Raises ReleaseError."""
        name, split, newest = service.name, self._commands.split(service.name), self._records.rollout(service.name)
        if version == split.stable:
            raise ReleaseError(f"{version} is already the stable release of {name}", "Choose another one.")
        return Rollout(
            number=newest.number + 1 if newest else 1,
            service=name,
            before=split.stable,
            after=version,
            policy=service.rollout,
            instances=service.instances,
            state=RolloutState.SCHEDULED if terms.scheduled else RolloutState.STARTING,
            started_at=self._world.time(),
            since_at=self._world.time(),
            begin_at=terms.begin_at,
            override=terms.override,
            train=terms.train,
        )

    async def rollback(self, name: str, author: Author) -> Rollout:
        """Undo: end the rollout under way, or move back to the release before the last one. `name`: a service or a
        train; what was deployed together goes back together."""
        service = self._service_of(name)
        if self._commands.active(service):
            return await self.steer(name, "abort", author)

        async def write() -> Rollout:
            promoted = self._together(self._promoted(service))
            train = f"{promoted[0].train}-undo" if len(promoted) > 1 else ""
            rollouts = [self._undone(each, author, train) for each in promoted]
            what = [f"roll {rollout.service} back to {rollout.after}" for rollout in rollouts]
            await self._write(what, author, rollouts, train=train)
            return rollouts[0]

        return await persist(write)

    def _promoted(self, name: str) -> Rollout:
        done = [r for r in self._records.rollouts(name) if r.state is RolloutState.PROMOTED]
        split = self._commands.split(name)
        last = next((r for r in reversed(done) if r.after == split.stable and r.before != r.after), None)
        if last is None or self._records.release(name, last.before) is None:
            raise UnknownName(
                f"{name} has no release before {split.stable}", "Deploy the one you want: `gapless deploy`."
            )
        return last

    def _together(self, promoted: Rollout) -> list[Rollout]:
        """It first, then those that were promoted with it; alone, when one of them has moved on since."""
        others = [each for each in self.members(promoted) if each.service != promoted.service]
        if all(self._records.rollout(each.service) == each for each in others):
            return [promoted, *others]
        return [promoted]

    def _undone(self, promoted: Rollout, author: Author, train: str) -> Rollout:
        self._commands.refuse_when_busy(promoted.service, scheduled=True)
        newest = self._records.rollout(promoted.service)
        return undo(
            promoted,
            number=newest.number + 1 if newest else 1,
            instances=self._commands.known(promoted.service).instances,
            now_at=self._world.time(),
            reason=author.why or f"rolled back by {author.who}",
            train=train,
        )

    async def steer(self, name: str, verb: str, author: Author, override: str = "") -> Rollout:
        """One of `rollout.commands.VERBS` for the rollout of a service or a train under way. `override`: why no window
        or freeze is to hold it back from here on. Raises UnknownName when there is none, InvalidTransition, Frozen."""
        service = self._service_of(name)
        if self._commands.active(service) is None:
            raise UnknownName(f"no rollout of {name} is under way", "See `gapless rollout` for those that have ended.")

        async def write() -> list[Rollout]:
            active = self._commands.active(service)
            before = self.members(active) if active else []
            steered = self._steered(before, verb, author, override)
            what = [f"{_did(verb, r)} rollout {r.number} of {r.service} ({r.before} → {r.after})" for r in steered]
            await self._write([f"{each}{_against(override)}" for each in what], author, steered)
            return steered

        steered = await persist(write)
        return next((each for each in steered if each.service == service), steered[0])

    def _steered(self, rollouts: Sequence[Rollout], verb: str, author: Author, override: str) -> list[Rollout]:
        """Those of a train that can do it. Raises InvalidTransition when none can."""
        if verb in HURRIED and not all(each.override for each in rollouts):
            self.refuse_when_closed([each.service for each in rollouts], override)
        done, refused = [], InvalidTransition("there is nothing to steer")
        for rollout in rollouts:
            try:
                after = steer(rollout, verb, author.why or f"{verb} by {author.who}", self._world.time(), author.who)
            except InvalidTransition as error:
                refused = error
                continue
            done.append(replace(after, override=override) if override and verb in FORWARD else after)
        if not done:
            raise refused
        return done

    def members(self, rollout: Rollout) -> list[Rollout]:
        """The rollouts of its train, or it alone."""
        train = self._records.train(rollout.train) if rollout.train else None
        found = [self._records.rollout_of(*member) for member in (train.members if train else ())]
        return [each for each in found if each] or [rollout]

    def _service_of(self, name: str) -> str:
        """A service's own name; the first member's of a train. Raises UnknownName."""
        train = self._records.train(name)
        return train.members[0][0] if train else self._commands.known(name).name

    async def _write(
        self, what: Sequence[str], author: Author, rollouts: Sequence[Rollout], *values: Release, train: str = ""
    ) -> None:
        """All of it, with an entry for each rollout, or nothing."""
        first = self._records.next_change()
        changes = [
            replace(self._commands.change(author, told, rollout.service), number=first + place)
            for place, (told, rollout) in enumerate(zip(what, rollouts, strict=True))
        ]
        members = tuple((rollout.service, rollout.number) for rollout in rollouts)
        made = Train(name=train, members=members, who=author.who, why=author.why, started_at=self._world.time())
        await self._records.write(*changes, *rollouts, *values, *([made] if train else []))
        for change in changes:
            self._events(ChangeRecorded(change=change))
        for rollout in rollouts:
            self._events(RolloutChanged(rollout=rollout))


def shown(records: Records, name: str = "") -> list[Rollout]:
    """The newest rollout of each service; of a service or a train, its own. Raises UnknownName."""
    if not name:
        newest = [records.rollout(service.name) for service in records.services()]
        return [rollout for rollout in newest if rollout]
    if train := records.train(name):
        members = [records.rollout_of(*member) for member in train.members]
        return [rollout for rollout in members if rollout]
    found = records.rollout(name)
    if found is None:
        raise UnknownName(f"{name} has had no rollout yet", f"Begin one: `gapless deploy {name} --release …`.")
    return [found]


def _did(verb: str, rollout: Rollout) -> str:
    return "call off" if verb == "abort" and rollout.called_off else verb


def _on(terms: Terms) -> str:
    train = f" with train {terms.train}" if terms.train else ""
    return f"{train}{_against(terms.override)}"


def _against(override: str) -> str:
    return f", against windows and freezes: {override}" if override else ""

"""Drives rollouts: reads what happened, lets `rollout.train` and `rollout.bake` decide, writes the outcome in one
transaction: of all rollouts that move together, or of none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from gapless.control.lookbook import Lookbook
from gapless.control.records import Records
from gapless.control.router import Router
from gapless.control.sampler import Sampler
from gapless.core.events import ChangeRecorded, Events, RolloutChanged
from gapless.core.model import Change, Rollout, RolloutState, Service, Train, Window
from gapless.core.ports import Metrics, World
from gapless.rollout import train
from gapless.rollout.bake import after_promotion, baking, kept
from gapless.rollout.calendar import closed
from gapless.rollout.gates import gating
from gapless.rollout.observed import Observed, observe
from gapless.rollout.scene import Outcome
from gapless.rollout.undo import undo

Turn = tuple[Rollout, Outcome]
"""A rollout as it was, and what is to be written."""


class Roller:
    """`step` is one look at every rollout under way, and at those that were promoted lately."""

    def __init__(
        self,
        records: Records,
        metrics: Metrics,
        sampler: Sampler,
        lookbook: Lookbook,
        router: Router,
        world: World,
        events: Events,
    ) -> None:
        self._records = records
        self._metrics = metrics
        self._sampler = sampler
        self._lookbook = lookbook
        self._router = router
        self._world = world
        self._events = events
        self._began_at = 0.0

    async def step(self) -> None:
        """Raises Conflict when a verb wrote first: the next look decides on what it wrote."""
        self._began_at = self._began_at or self._world.time()
        newest = [r for service in self._records.services() if (r := self._records.rollout(service.name))]
        self._lookbook.follow(rollout for rollout in newest if not rollout.state.ended or baking(rollout))
        for group in self._groups([rollout for rollout in newest if not rollout.state.ended]):
            await self._advance(group)
        for rollout in newest:
            if baking(rollout) or kept(rollout, self._records.pool(rollout.service)):
                await self._watch(rollout)

    def _groups(self, rollouts: Sequence[Rollout]) -> Iterator[list[Rollout]]:
        """What moves together: the rollouts of a train, those that have ended included, or a single one."""
        trains = dict.fromkeys(rollout.train for rollout in rollouts if rollout.train)
        yield from ([rollout] for rollout in rollouts if not rollout.train)
        yield from (self._members(name) for name in trains)

    def _members(self, name: str) -> list[Rollout]:
        found = self._records.train(name)
        rollouts = (self._records.rollout_of(*member) for member in (found.members if found else ()))
        return [rollout for rollout in rollouts if rollout and self._records.service(rollout.service)]

    async def _advance(self, rollouts: Sequence[Rollout]) -> None:
        now_at = self._world.time()
        windows = await asyncio.gather(*(self._windows(rollout, now_at) for rollout in rollouts))
        if [self._records.rollout_of(r.service, r.number) for r in rollouts] != list(rollouts):
            return  # a verb came in between; it has woken this loop
        if any(self._must_wait(rollout) for rollout in rollouts):
            return
        members = [self._member(rollout, *found) for rollout, found in zip(rollouts, windows, strict=True)]
        calendars = [calendar for rollout in rollouts for calendar in self._service(rollout).calendars]
        outcomes = train.advance(members, now_at, closed(calendars, now_at))
        await self._write(list(zip(rollouts, outcomes, strict=True)))
        for rollout, outcome, (canary, stable) in zip(rollouts, outcomes, windows, strict=True):
            if outcome.verdict:
                self._lookbook.note(rollout, outcome.verdict, canary, stable, now_at)

    def _must_wait(self, rollout: Rollout) -> bool:
        """A change of configuration that is being tried goes first."""
        waits = rollout.state is RolloutState.SCHEDULED
        return waits and self._records.config(rollout.service).staging is not None

    def _member(self, rollout: Rollout, canary: Window, stable: Window) -> train.Member:
        service = self._service(rollout)
        if rollout.state is RolloutState.SCHEDULED:
            rollout = replace(rollout, instances=service.instances)  # it may have been scaled meanwhile
        needs = {each.name: each.needs for each in self._records.services()}
        return train.Member(
            rollout=rollout,
            observed=self._observed(rollout),
            canary=canary,
            stable=stable,
            objective=service.objective,
            start_s=service.start_s,
            readings=self._sampler.take(rollout),
            needs=train.closure(needs, service.name),
        )

    def _observed(self, rollout: Rollout) -> Observed:
        name = rollout.service
        return observe(
            rollout,
            self._records.instances(name),
            split=self._records.split(name),
            applied=self._router.applied_split(name),
            pool=self._records.pool(name),
            gates=gating(rollout.policy, self._records.gate_results(name, rollout.number)),
            began_at=self._began_at,
        )

    def _service(self, rollout: Rollout) -> Service:
        service = self._records.service(rollout.service)
        assert service is not None, "only rollouts of services that are there are looked at"
        return service

    async def _windows(self, rollout: Rollout, now_at: float) -> tuple[Window, Window]:
        """What both releases answered in the whole seconds since the last look. A second that is not over yet waits for
        the next look: it would be counted in part, and then not again."""
        since_at, until_at = math.floor(rollout.evidence.until_at), math.floor(now_at)
        if not since_at or until_at <= since_at:
            return Window(), Window()
        canary, stable = await asyncio.gather(
            self._metrics.window(rollout.service, rollout.after, since_at, until_at),
            self._metrics.window(rollout.service, rollout.before, since_at, until_at),
        )
        return canary, stable

    async def _watch(self, rollout: Rollout) -> None:
        """A promoted one: its bake, and the old pool that is kept."""
        now_at = self._world.time()
        canary, _ = await self._windows(rollout, now_at)
        if self._records.rollout(rollout.service) != rollout or not self._records.service(rollout.service):
            return
        service = self._service(rollout)
        found = after_promotion(rollout, self._observed(rollout), canary, service.objective, now_at)
        back = self._back(rollout, found.harm, now_at) if found.harm else []
        await self._write([(rollout, found.outcome)], *back)
        if verdict := found.outcome.verdict:
            self._lookbook.note(rollout, verdict, canary, Window(), now_at)

    def _back(self, rollout: Rollout, harm: str, now_at: float) -> list[Rollout | Train]:
        """The rollouts that take back a promoted one and all that were promoted with it."""
        together = self._members(rollout.train) if rollout.train else [rollout]
        newest = [each for each in together if self._records.rollout(each.service) == each]
        name = f"{rollout.train}-undo" if len(newest) > 1 else ""
        undone = [
            undo(
                each,
                number=each.number + 1,
                instances=self._service(each).instances,
                now_at=now_at,
                reason=f"{rollout.service} does harm after its promotion: {harm}",
                automatic=True,
                train=name,
            )
            for each in newest
        ]
        members = tuple((each.service, each.number) for each in undone)
        made = Train(name=name, members=members, who="gapless", why=harm, started_at=now_at)
        return [*undone, *([made] if name else [])]

    async def _write(self, turns: Sequence[Turn], *more: Rollout | Train) -> None:
        first = self._records.next_change()
        acts = [(before.service, act) for before, outcome in turns for act in outcome.acts]
        changes = [
            Change(
                number=first + place,
                at=self._world.time(),
                who="gapless",
                what=act.what,
                service=service,
                why=act.why,
                numbers=act.numbers,
            )
            for place, (service, act) in enumerate(acts)
        ]
        values: list[Any] = [*more, *changes]
        for before, outcome in turns:
            values += [value for value in (outcome.split, outcome.pool) if value]
            values += [outcome.rollout] if outcome.rollout != before else []
        await self._records.write(*values)
        for change in changes:
            self._events(ChangeRecorded(change=change))
        for rollout in (*(outcome.rollout for _, outcome in turns if outcome.acts), *more):
            if isinstance(rollout, Rollout):
                self._events(RolloutChanged(rollout=rollout))

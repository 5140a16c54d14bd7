"""Drives staged changes of configuration: reads what happened, lets `rollout.staging` decide, writes the outcome in one
transaction."""

from __future__ import annotations

import math

from gapless.control.figures import Figures
from gapless.control.publisher import Publisher
from gapless.control.records import Records
from gapless.core.configured import Config, ConfigStage
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import Change, Service, Window
from gapless.core.ports import World
from gapless.rollout import staging


class Stager:
    """`step` is one look at every stage under way."""

    def __init__(self, records: Records, publisher: Publisher, figures: Figures, world: World, events: Events) -> None:
        self._records = records
        self._publisher = publisher
        self._figures = figures
        self._world = world
        self._events = events
        self._began_at = 0.0

    async def step(self) -> None:
        """Raises Conflict when a verb wrote first: the next look decides on what it wrote."""
        self._began_at = self._began_at or self._world.time()
        for service in self._records.services():
            config = self._records.config(service.name)
            if config.staging:
                await self._advance(service, config, config.staging)

    async def _advance(self, service: Service, config: Config, stage: ConfigStage) -> None:
        now_at = self._world.time()
        taken, refused = self._publisher.standing(service.name, stage.number)
        instances = self._records.instances(service.name)
        seen = staging.watched(stage, instances, taken, refused, self._began_at)
        canary, others = self._windows(stage, now_at)
        outcome = staging.advance(stage, seen, canary, others, service.objective, now_at)
        await self._write(config, stage, outcome)

    def _windows(self, stage: ConfigStage, now_at: float) -> tuple[Window, Window]:
        """What both answered in the whole seconds since the last look (see `Roller`)."""
        since_at, until_at = math.floor(stage.evidence.until_at), math.floor(now_at)
        if not since_at or until_at <= since_at:
            return Window(), Window()
        return self._figures.parted(stage.service, set(stage.members), since_at, until_at)

    async def _write(self, config: Config, before: ConfigStage, outcome: staging.StageOutcome) -> None:
        stage = outcome.stage
        if stage == before:
            return
        first = self._records.next_change()
        changes = [
            Change(
                number=first + place,
                at=self._world.time(),
                who="gapless",
                what=act.what,
                service=stage.service,
                why=act.why,
                numbers=act.numbers,
            )
            for place, act in enumerate(outcome.acts)
        ]
        await self._records.write(config.moved(stage), *changes)
        for change in changes:
            self._events(ChangeRecorded(change=change))

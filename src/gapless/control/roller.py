"""Drives rollouts: reads what happened, lets `rollout.controller` decide, writes the outcome in one transaction."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from gapless.control.records import Records
from gapless.control.router import Router
from gapless.core.events import ChangeRecorded, Events, RolloutChanged
from gapless.core.model import Change, Rollout, Service, Window
from gapless.core.ports import Metrics, World
from gapless.rollout import controller


class Roller:
    """`step` is one look at every rollout under way."""

    def __init__(self, records: Records, metrics: Metrics, router: Router, world: World, events: Events) -> None:
        self._records = records
        self._metrics = metrics
        self._router = router
        self._world = world
        self._events = events
        self._began_at = 0.0

    async def step(self) -> None:
        """Raises Conflict when a verb wrote first: the next look decides on what it wrote."""
        self._began_at = self._began_at or self._world.time()
        for service in self._records.services():
            rollout = self._records.rollout(service.name)
            if rollout and not rollout.state.ended:
                await self._advance(service, rollout)

    async def _advance(self, service: Service, rollout: Rollout) -> None:
        now_at = self._world.time()
        canary, stable = await self._windows(rollout, now_at)
        current = self._records.rollout(service.name)
        if current != rollout:
            return  # a verb came in between; it has woken this loop
        observed = controller.observe(
            rollout,
            self._records.instances(service.name),
            split=self._records.split(service.name),
            applied=self._router.applied_split(service.name),
            pool=self._records.pool(service.name),
            began_at=self._began_at,
        )
        outcome = controller.advance(
            rollout, observed, canary, stable, service.objective, now_at, start_s=service.start_s
        )
        await self._write(rollout, outcome)

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

    async def _write(self, before: Rollout, outcome: controller.Outcome) -> None:
        first = self._records.next_change()
        changes = [
            Change(
                number=first + place,
                at=self._world.time(),
                who="gapless",
                what=act.what,
                service=before.service,
                why=act.why,
                numbers=act.numbers,
            )
            for place, act in enumerate(outcome.acts)
        ]
        values: list[Any] = [value for value in (outcome.split, outcome.pool, *changes) if value]
        if outcome.rollout != before:
            values.append(outcome.rollout)
        await self._records.write(*values)
        for change in changes:
            self._events(ChangeRecorded(change=change))
        if changes:
            self._events(RolloutChanged(rollout=outcome.rollout))

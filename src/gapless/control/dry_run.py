"""What a deploy would do, told from the same decisions and from how the services are now. Nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gapless.control.commands import Commands
from gapless.control.records import Records
from gapless.control.rollouts import Order, RolloutCommands, Terms
from gapless.core.errors import Busy, Frozen
from gapless.core.model import Phase, Service
from gapless.core.ports import Metrics, World
from gapless.rollout.outline import READY_AFTER_S, Outline, Part, outline
from gapless.rollout.train import closure

RATE_OVER_S = 60
NEW = "(new)"
"""Stands for a version that is named by its content, which is not made for a dry run."""


class DryRun:
    """Asks the rollout's own deciders."""

    def __init__(
        self, records: Records, commands: Commands, rollouts: RolloutCommands, metrics: Metrics, world: World
    ) -> None:
        self._records = records
        self._commands = commands
        self._rollouts = rollouts
        self._metrics = metrics
        self._world = world

    async def outline(self, orders: Sequence[Order], terms: Terms) -> Outline:
        """In order, with what stands against it as warnings. Raises UnknownName, ConfigError, ReleaseError."""
        against = ""
        try:
            self._rollouts.refuse(orders, terms)
        except (Busy, Frozen) as error:
            against = f"it would be refused now: {error.what}"
        # In a freeze, tell what would follow it.
        terms = terms if terms.override else replace(terms, scheduled=True)
        parts = [await self._part(order, terms) for order in orders]
        found = await asyncio.to_thread(outline, parts, self._world.time())
        return replace(found, warnings=(against, *found.warnings)) if against else found

    async def _part(self, order: Order, terms: Terms) -> Part:
        service = self._commands.known(order.service)
        rollout = self._rollouts.planned(service, order.version or NEW, terms)
        needs = {each.name: each.needs for each in self._records.services()}
        return Part(
            rollout=rollout,
            objective=service.objective,
            calendars=service.calendars,
            needs=closure(needs, service.name),
            start_s=service.start_s,
            ready_after_s=self._start(service),
            rate=await self._rate(service, rollout.before),
        )

    def _start(self, service: Service) -> float:
        """How long its instances took."""
        ready = [i for i in self._records.instances(service.name) if i.phase is Phase.READY]
        return max((i.since_at - i.created_at for i in ready), default=READY_AFTER_S)

    async def _rate(self, service: Service, stable: str) -> float:
        until_at = int(self._world.time())
        window = await self._metrics.window(service.name, stable, until_at - RATE_OVER_S, until_at)
        return window.requests / RATE_OVER_S

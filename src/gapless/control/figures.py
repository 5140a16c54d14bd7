"""What releases answered: as the gateway saw it, or, for services that the gateway does not lead to, by the instances'
own count; and what single instances answered, which only they know.

The counts of the instances are read every second while a rollout or a staged change of configuration needs them. An
instance's first reading is where its counting begins; what it answered before is nobody's evidence.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest

from gapless.control.records import Records
from gapless.core.model import WARM_UP_S, Instance, Phase, Service, Window
from gapless.core.ports import Fleet, Metrics, World
from gapless.rollout.bake import baking

KEPT = 900
"""Readings that windows can look back on."""


class Figures:
    """Implements `core.ports.Metrics`; `step` is one reading."""

    def __init__(self, records: Records, gateway: Metrics, fleet: Fleet, world: World) -> None:
        self._records = records
        self._gateway = gateway
        self._fleet = fleet
        self._world = world
        self._last: dict[str, Window] = {}
        self._readings: deque[tuple[float, list[tuple[Instance, Window]]]] = deque(maxlen=KEPT)

    async def window(self, service: str, release: str, since_at: float, until_at: float) -> Window:
        """See `core.ports.Metrics`."""
        known = self._records.service(service)
        if known is None or known.routes:
            return await self._gateway.window(service, release, since_at, until_at)
        return self._sum(since_at, until_at, lambda i: (i.service, i.release) == (service, release))

    def parted(self, service: str, members: set[str], since_at: float, until_at: float) -> tuple[Window, Window]:
        """What these instances of a service answered, and what all its others did."""
        return (
            self._sum(since_at, until_at, lambda i: i.service == service and i.id in members),
            self._sum(since_at, until_at, lambda i: i.service == service and i.id not in members),
        )

    def _sum(self, since_at: float, until_at: float, counts: Callable[[Instance], bool]) -> Window:
        total = Window()
        for at, answered in self._readings:
            if since_at <= at < until_at:
                for instance, window in answered:
                    total = plus(total, window) if counts(instance) else total
        return total

    async def step(self) -> None:
        """Read the instances of every unrouted service that is in a rollout, and of all that are in a stage."""
        watched = [i for name in self._watched() for i in self._records.instances(name) if i.phase in _ANSWERING]
        counts = await asyncio.gather(*(self._fleet.measure(instance) for instance in watched))
        answered = [
            (instance, self._since_last(instance, count))
            for instance, count in zip(watched, counts, strict=True)
            if count is not None
        ]
        self._last = {i.id: self._last[i.id] for i in watched if i.id in self._last}
        if answered:
            self._readings.append((self._world.time(), answered))

    def _watched(self) -> list[str]:
        return [service.name for service in self._records.services() if self._is_watched(service)]

    def _is_watched(self, service: Service) -> bool:
        if self._records.config(service.name).staging:
            return True
        rollout = self._records.rollout(service.name)
        return not service.routes and rollout is not None and (not rollout.state.ended or baking(rollout))

    def _since_last(self, instance: Instance, count: Window) -> Window:
        before = self._last.get(instance.id, count)
        self._last[instance.id] = count
        answered = minus(count, before)
        cold = instance.phase is Phase.READY and self._world.time() - instance.since_at < WARM_UP_S
        return replace(answered, latency=()) if cold else answered


_ANSWERING = (Phase.READY, Phase.UNREADY, Phase.DRAINING)


def plus(one: Window, other: Window) -> Window:
    """Both together."""
    latency = tuple(a + b for a, b in zip_longest(one.latency, other.latency, fillvalue=0))
    return replace(one, requests=one.requests + other.requests, errors=one.errors + other.errors, latency=latency)


def minus(after: Window, before: Window) -> Window:
    """What came between two counts; never below nothing, should a counter have been lost."""
    latency = tuple(max(a - b, 0) for a, b in zip_longest(after.latency, before.latency, fillvalue=0))
    return Window(
        requests=max(after.requests - before.requests, 0),
        errors=max(after.errors - before.errors, 0),
        latency=latency,
    )

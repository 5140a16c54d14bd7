"""Which agents live, where several share a store: each holds a key on a lease, and the others look.

The checks of a node are run by its agent. When that dies nobody hears their heartbeats any more, so the others say so:
`serfHealth` of the node becomes critical, and all instances on it leave the rotation. An agent that comes back, or was
only paused, says that it is well.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from gapless.core.errors import GaplessError, LeaseLost
from gapless.core.ports import Store, World
from gapless.discovery.catalog import keys
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.errors import NotRegistered
from gapless.discovery.catalog.values import SERF_HEALTH, Status
from gapless.discovery.catalog.view import View

TTL_S = 10.0
LOOK_S = TTL_S / 3
LOOKS = 2
"""Looks in a row at which an agent must be missing: one that starts has its key a moment after its node."""
WELL = "Agent alive and reachable"
DEAD = "Agent not live or unreachable"

_log = logging.getLogger("gapless.registry")


def missing(view: View, service: str) -> list[str]:
    """The nodes whose agents do not live, and of whom nobody has said so yet. An agent's node is one on which there is
    the service as which agents are found."""
    agents = {node for node, _ in view.services.get(service, {})}
    return sorted(node for node in agents - view.alive if _passes(view, node))


def _passes(view: View, node: str) -> bool:
    row = view.checks.get(node, {}).get(SERF_HEALTH)
    return row is not None and row.check.status == Status.PASSING


class Alive:
    """Tells that this agent lives, and looks after the others."""

    def __init__(self, catalog: Catalog, store: Store, world: World) -> None:
        self._catalog, self._store, self._world = catalog, store, world
        self._lease = ""
        self._missing: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises what the store raises."""
        await self._tell()
        self._task = asyncio.create_task(self._go_on(), name="tell that the agent lives")

    async def aclose(self) -> None:
        """The key stays until its time is over: an agent that is back by then was never missed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _go_on(self) -> None:
        while True:
            await self._world.sleep(LOOK_S * (0.9 + 0.2 * self._world.random()))
            try:
                if await self._tell():
                    await self._judge()
                else:
                    # It was this agent that was cut off, or the store: then others may have lost theirs as well.
                    self._missing.clear()
            except GaplessError as error:
                _log.warning("other registries do not hear that this one lives, and will be told again: %s", error)

    async def _tell(self) -> bool:
        """False when its lease had been lost."""
        held = await self._has_lease()
        if not held:
            self._lease = await self._store.grant(TTL_S)
            await self._store.put(keys.alive_key(self._catalog.name), b"1", lease=self._lease)
        await self._catalog.update_check(SERF_HEALTH, Status.PASSING, WELL)
        return held

    async def _has_lease(self) -> bool:
        if not self._lease:
            return False
        try:
            await self._store.renew(self._lease)
        except LeaseLost:
            return False
        return True

    async def _judge(self) -> None:
        itself = self._catalog.itself
        gone = missing(self._catalog.view, itself.service) if itself else []
        self._missing = Counter({node: self._missing[node] + 1 for node in gone})
        for node, looks in self._missing.items():
            if looks >= LOOKS:
                _log.warning("the agent of %s does not live any more: its node is critical", node)
                try:
                    await self._catalog.update_check(SERF_HEALTH, Status.CRITICAL, DEAD, node)
                except NotRegistered:
                    continue  # somebody deregistered the node meanwhile

"""Ends sessions whose node has gone, or one of whose checks is critical or no longer there."""

from __future__ import annotations

import asyncio
import logging

from gapless.core.errors import GaplessError
from gapless.core.ports import World
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.topic import CHECKS
from gapless.discovery.catalog.values import Status
from gapless.discovery.kv.kv import KeyValues
from gapless.discovery.kv.rows import Session

REST_S = 0.02
"""Between two looks: a burst of changes is one look."""
AGAIN_S = 1.0

_log = logging.getLogger("gapless.registry")


def complaint(catalog: Catalog, session: Session) -> str:
    """Why the session cannot be, in Consul's words; empty when it can. Pure."""
    if catalog.node(session.node) is None:
        return "Missing node registration"
    for check in (*session.node_checks, *session.service_checks):
        row = catalog.check(check, session.node)
        if row is None:
            return f"Missing check '{check}' registration"
        if row.check.status == Status.CRITICAL:
            return f"Check '{check}' is in critical state"
    return ""


class SessionChecks:
    """A loop over both: `start` it when they have started."""

    def __init__(self, keys: KeyValues, catalog: Catalog, world: World) -> None:
        self._keys = keys
        self._catalog = catalog
        self._world = world
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="session checks")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        seen = 0
        while True:
            seen = await self._catalog.topics.passed(CHECKS, seen)
            try:
                await self.look()
            except GaplessError as error:
                _log.warning("sessions are looked at again in a moment: %s", error)
                seen = 0
                await self._world.sleep(AGAIN_S)
            await self._world.sleep(REST_S)

    async def look(self) -> None:
        """End what has to end now. Raises what the store raises."""
        for session in list(self._keys.state.sessions.values()):
            if reason := complaint(self._catalog, session):
                _log.info("session %s ends: %s", session.id, reason)
                await self._keys.destroy(session.id)

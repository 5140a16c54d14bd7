"""Keeps what a process has registered: tells that it lives, and registers again what was lost.

The keeper goes round several times in a time to live, at moments that differ from process to process. A round that
fails is said once, and the next one tries again: a registry that comes back finds everybody within a round.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass

from gapless.core.errors import UnknownName
from gapless.core.ports import World
from gapless.discovery.catalog.values import Status
from gapless.discovery.registry import BEATS, Registration

_log = logging.getLogger("gapless.registry")


@dataclass(slots=True)
class Kept:
    """A registration, and what its owner said of it last."""

    registration: Registration
    status: str = Status.PASSING
    note: str = ""


class Keeper(ABC):
    """What the registries have in common. A subclass says how to tell."""

    def __init__(self, world: World, ttl_s: float) -> None:
        self._world, self._ttl_s = world, ttl_s
        self._kept: dict[str, Kept] = {}
        self._task: asyncio.Task[None] | None = None
        self._silent = False

    async def register(self, registration: Registration) -> None:
        kept = Kept(registration)
        await self._renew()
        await self._enter(kept)
        self._kept[registration.identity] = kept
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="keep registrations")

    async def deregister(self, identity: str) -> None:
        self._kept.pop(identity, None)
        await self._leave(identity)

    async def passing(self, identity: str, note: str = "") -> None:
        await self._say(identity, Status.PASSING, note)

    async def warn(self, identity: str, note: str = "") -> None:
        await self._say(identity, Status.WARNING, note)

    async def fail(self, identity: str, note: str = "") -> None:
        await self._say(identity, Status.CRITICAL, note)

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _say(self, identity: str, status: str, note: str) -> None:
        kept = self._kept.get(identity)
        if kept is None:
            raise UnknownName(f"{identity!r} is not registered by this process", "Register it first.")
        kept.status, kept.note = status, note
        await self._beat(kept)

    async def _keep(self) -> None:
        while True:
            await self._world.sleep(self._ttl_s / BEATS * (0.8 + 0.4 * self._world.random()))
            try:
                await self._round()
                self._silent = False
            except Exception as error:  # noqa: BLE001 - without a keeper all would lapse; it is said, once
                if not self._silent:
                    _log.warning("the registry does not hear that this process lives; it is told again: %s", error)
                self._silent = True

    async def _round(self) -> None:
        """All are told, whatever becomes of one of them. Raises the first error."""
        await self._renew()
        beats = (self._beat(kept) for kept in tuple(self._kept.values()))
        for outcome in await asyncio.gather(*beats, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _is_kept(self, kept: Kept) -> bool:
        """False when its owner has deregistered or replaced it meanwhile."""
        return self._kept.get(kept.registration.identity) is kept

    @abstractmethod
    async def _enter(self, kept: Kept) -> None:
        """Register it, or register it again."""

    @abstractmethod
    async def _leave(self, identity: str) -> None:
        """Deregister it; no error when it is not there."""

    @abstractmethod
    async def _beat(self, kept: Kept) -> None:
        """Tell its status; register it again when the registry does not know it."""

    async def _renew(self) -> None:
        """Before each round, and before something is registered: what all registrations live by."""
        return

"""What a user can ask for, one method for each verb. CLI, HTTP and console are thin clients of these.

Each verb writes what is wanted, with its entry in the change log, in one transaction; the loops do the rest. So a verb
that was acknowledged survives kill -9, and one that failed has changed nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gapless.control.records import Records, persist
from gapless.core.errors import Busy, InvalidTransition, ReleaseError, UnknownName
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import Change, Phase, Pool, Release, Rollout, RolloutState, Service, Split
from gapless.core.ports import Fleet, World
from gapless.rollout.bake import kept

T = TypeVar("T")

RELEASES_KEPT = 5
"""Rollouts, counted back from the newest, whose releases can be gone back to without making them anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who asks, and why."""

    who: str
    why: str = ""
    ticket: str = ""
    undoes: int = 0
    """The number of the change that is taken back by this; 0: none."""


class Commands:
    """Acts on the records; nothing here waits for the loops."""

    def __init__(self, records: Records, fleet: Fleet, world: World, events: Events) -> None:
        self._records = records
        self._fleet = fleet
        self._world = world
        self._events = events
        self.making = asyncio.Lock()
        """Held from the making of a snapshot until a record names it."""

    async def scale(self, name: str, instances: int, author: Author) -> Service:
        """Change a service's capacity. Raises Busy during a rollout, which plans with the present one."""
        service = self.known(name)
        if instances < 1:
            raise InvalidTransition(f"{name} cannot have {instances} instances", "Ask for 1 or more.")
        self.refuse_when_busy(name)
        declared = service.declared or service.instances
        scaled = replace(service, instances=instances, declared=0 if instances == declared else declared)
        await self._resize(scaled, author, f"scale {name} from {service.instances} to {instances} instances")
        return scaled

    async def redefine(self, service: Service, author: Author, what: str) -> None:
        """Change a service's definition by hand. Raises Busy."""
        self.refuse_when_busy(service.name)
        await self._resize(service, author, what)

    async def reload(self, name: str, author: Author) -> list[str]:
        """Hot restart every instance in place, one after the other. Raises ReloadRefused at the first that refuses."""
        self.known(name)
        ready = [i for i in self._records.instances(name) if i.phase in (Phase.READY, Phase.UNREADY)]
        if not ready:
            raise UnknownName(f"{name} has no running instance to reload", f"See `gapless status {name}`.")
        told = [f"{instance.id}: {await self._fleet.reload(instance)}" for instance in ready]

        async def write() -> None:
            await self.commit(self.change(author, f"hot restart of {len(ready)} instances of {name}", name))

        await persist(write)
        return told

    async def tidy(self) -> None:
        """Remove the snapshots that nobody will go back to, and services that have left. Records of releases stay: they
        tell what a version was."""
        await self.forget()
        async with self.making:
            await self._fleet.prune({digest for s in self._records.services() for digest in self._kept(s.name)})

    async def welcome(self) -> None:
        """A new service gets its requests as soon as an instance can answer them."""
        for service in self._records.services():
            split = self._records.split(service.name)
            ready = any(each.phase is Phase.READY for each in self._records.instances(service.name))
            if split and not split.entered and ready:
                await self._records.amend(split, lambda now: replace(now, entered=True))

    async def forget(self) -> None:
        """Services that have left, and so have no split: first their instances go, then their records."""
        for service in self._records.services():
            pool, instances = self._records.pool(service.name), self._records.instances(service.name)
            if self._records.split(service.name) is not None:
                continue
            if pool and pool.sizes:
                await self._records.write(replace(pool, sizes={}))
            elif all(each.phase is Phase.STOPPED for each in instances):
                await self._records.write(delete=[service, *instances])

    def _kept(self, name: str) -> set[str]:
        recent = self._records.rollouts(name)[-RELEASES_KEPT:]
        split = self._records.split(name)
        running = {i.release for i in self._records.instances(name) if i.phase is not Phase.STOPPED}
        versions = {v for r in recent for v in (r.before, r.after)} | running
        versions |= {split.stable} if split else set()
        return {release.digest for v in versions if (release := self._records.release(name, v))}

    def known(self, name: str) -> Service:
        """Raises UnknownName."""
        service = self._records.service(name)
        if service is None:
            names = ", ".join(s.name for s in self._records.services()) or "none"
            raise UnknownName(f"there is no service {name!r}", f"The services are: {names}.")
        return service

    def split(self, name: str) -> Split:
        split = self._records.split(name)
        if split is None:
            raise UnknownName(f"{name} has no release yet", "Its first one is being made; try again in a moment.")
        return split

    def active(self, name: str) -> Rollout | None:
        newest = self._records.rollout(name)
        return newest if newest and not newest.state.ended else None

    def moving(self, name: str) -> Rollout | None:
        """The rollout under way, once it has begun."""
        active = self.active(name)
        return active if active and active.state is not RolloutState.SCHEDULED else None

    def cut_short(self, name: str, reason: str) -> list[Rollout]:
        """The rollout under way, ended where it stands: its service is no more."""
        active, now_at = self.active(name), self._world.time()
        if active is None:
            return []
        return [
            replace(
                active,
                state=RolloutState.ROLLED_BACK,
                winner=active.before,
                reason=reason,
                decided_at=now_at,
                ended_at=now_at,
            )
        ]

    def refuse_when_busy(self, name: str, *, scheduled: bool = False) -> None:
        """One change of a service at a time. Raises Busy. `scheduled`: a rollout whose time has not come counts."""
        active = self.active(name) if scheduled else self.moving(name)
        if active:
            raise Busy(
                f"rollout {active.number} of {name} ({active.before} → {active.after}) is under way",
                f"Wait for its end, or `gapless rollback {name}`.",
            )
        if stage := self._records.config(name).staging:
            raise Busy(
                f"revision {stage.number} of {name}'s configuration is being tried by {', '.join(stage.members[:3])}",
                f"Wait for its end, or `gapless config rollback {name}`.",
            )

    async def make(self, service: Service, source: Path, version: str, env: Mapping[str, str]) -> Release:
        made = await self._fleet.snapshot(service, source, version, {**service.env, **env})
        release = replace(made, version=version or f"r-{made.digest[:7]}", created_at=self._world.time())
        known = self._records.release(service.name, release.version)
        if known and (known.digest, known.env) != (release.digest, release.env):
            raise ReleaseError(
                f"{service.name} already has a release {release.version}, made of other content from {known.source}",
                "A release never changes: choose another version.",
            )
        return known or release

    async def _resize(self, service: Service, author: Author, what: str) -> None:
        async def write() -> None:
            await self.commit(self.change(author, what, service.name), service, self.sized(service))

        await persist(write)

    def sized(self, service: Service) -> Pool:
        """The instances that a definition asks for; a rollout under way has planned with those it found."""
        pool, split = self._records.pool(service.name), self.split(service.name)
        if pool and self.moving(service.name):
            return pool
        sizes = {**self._kept_pool(service.name, pool), split.stable: service.instances}
        return Pool(service=service.name, sizes=sizes)

    def _kept_pool(self, name: str, pool: Pool | None) -> dict[str, int]:
        """The old release's instances that stay for a return."""
        newest = self._records.rollout(name)
        instances = kept(newest, pool) if newest else 0
        return {newest.before: instances} if newest and instances else {}

    def change(self, author: Author, what: str, service: str) -> Change:
        return Change(
            number=self._records.next_change(),
            at=self._world.time(),
            who=author.who,
            what=what,
            service=service,
            why=author.why,
            ticket=author.ticket,
            undoes=author.undoes,
        )

    async def commit(self, change: Change, *values: Any, delete: list[Any] | None = None) -> None:
        await self._records.write(change, *values, delete=delete or ())
        self._events(ChangeRecorded(change=change))

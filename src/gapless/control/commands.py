"""What a user can ask for, one method for each verb. CLI, HTTP and console are thin clients of these.

Each verb writes what is wanted, with its entry in the change log, in one transaction; the loops do the rest. So a verb
that was acknowledged survives kill -9, and one that failed has changed nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gapless.control.records import AMEND_TRIES, Records
from gapless.core.errors import Busy, Conflict, InvalidTransition, ReleaseError, UnknownName
from gapless.core.events import ChangeRecorded, Events, RolloutChanged
from gapless.core.model import BUCKETS, Change, Phase, Pool, Release, Rollout, RolloutState, Service, Split
from gapless.core.ports import Fleet, World
from gapless.rollout.commands import steer

T = TypeVar("T")

RELEASES_KEPT = 5
"""Rollouts, counted back from the newest, whose releases can be gone back to without making them anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who asks, and why."""

    who: str
    why: str = ""
    ticket: str = ""


class Commands:
    """Acts on the records; nothing here waits for the loops."""

    def __init__(self, records: Records, fleet: Fleet, world: World, events: Events) -> None:
        self._records = records
        self._fleet = fleet
        self._world = world
        self._events = events
        self._making = asyncio.Lock()
        """Held from the making of a snapshot until a record names it."""

    async def admit(self, service: Service, author: Author) -> None:
        """Take a service's definition from gapless.yaml. A new one gets its first release, made of its source; a known
        one keeps its releases: code and settings change by `deploy` only, capacity and routes at once."""
        known = self._records.service(service.name)
        if known and self._records.split(service.name):
            wanted = merged(known, service)
            if wanted != known:
                await self._resize(wanted, author, f"definition of {service.name} changed in gapless.yaml")
            return
        async with self._making:
            await self._enter(service, author)

    async def _enter(self, service: Service, author: Author) -> None:
        release = await self._make(service, Path(service.source), "", {})
        split = Split(service=service.name, stable=release.version, weights=((release.version, BUCKETS),))
        pool = Pool(service=service.name, sizes={release.version: service.instances})

        async def write() -> None:
            change = self._change(author, f"{service.name} enters with release {release.version}", service.name)
            await self._commit(change, service, release, split, pool)

        await _persist(write)

    async def dismiss(self, service: Service, author: Author) -> None:
        """A service that is no longer in gapless.yaml: no routes, no instances; its record goes when they are gone."""
        pool, split = self._records.pool(service.name), self._records.split(service.name)
        if pool and pool.sizes:
            change = self._change(author, f"{service.name} leaves: it is no longer in gapless.yaml", service.name)
            ended = self._cut_short(service.name, change.what)
            await self._commit(change, replace(pool, sizes={}), *ended, delete=[split] if split else [])
        elif not [i for i in self._records.instances(service.name) if i.phase is not Phase.STOPPED]:
            await self._records.write(delete=[service, *self._records.instances(service.name)])

    async def deploy(
        self, name: str, source: Path | None, version: str, env: Mapping[str, str], author: Author
    ) -> Rollout:
        """Begin to move a service to a new release. Raises UnknownName, Busy, ReleaseError; then nothing changes."""
        service = self._service(name)
        self._refuse_when_busy(name)
        async with self._making:
            release = self._records.release(name, version) if version and not source else None
            release = release or await self._make(service, source or Path(service.source), version, env)

            async def write() -> Rollout:
                return await self._begin(service, release, author, f"deploy {name} {release.version}")

            return await _persist(write)

    async def rollback(self, name: str, author: Author) -> Rollout:
        """Undo: end the rollout under way, or move back to the release before the last one."""
        service, active = self._service(name), self._active(name)
        if active:
            return await self.steer(name, "abort", author)
        done = [r for r in self._records.rollouts(name) if r.state is RolloutState.PROMOTED]
        split = self._split(name)
        back = next((r.before for r in reversed(done) if r.after == split.stable and r.before != r.after), "")
        release = self._records.release(name, back)
        if release is None:
            raise UnknownName(
                f"{name} has no release before {split.stable}", "Deploy the one you want: `gapless deploy`."
            )
        at_once = replace(service, rollout=replace(service.rollout, steps=(BUCKETS,), hold_s=0.0, min_samples=0))

        async def write() -> Rollout:
            return await self._begin(at_once, release, author, f"roll {name} back to {back}")

        return await _persist(write)

    async def steer(self, name: str, verb: str, author: Author) -> Rollout:
        """`pause`, `resume`, `abort` or `promote` the rollout under way. Raises UnknownName when there is none, and
        InvalidTransition."""
        self._service(name)
        rollout = self._active(name)
        if rollout is None:
            raise UnknownName(f"no rollout of {name} is under way", "See `gapless rollout` for those that have ended.")

        async def write() -> Rollout:
            now = self._active(name) or rollout
            steered = steer(now, verb, author.why or f"{verb} by {author.who}", self._world.time())
            what = f"{verb} rollout {now.number} of {name} ({now.before} → {now.after})"
            await self._commit(self._change(author, what, name), steered)
            return steered

        steered = await _persist(write)
        self._events(RolloutChanged(rollout=steered))
        return steered

    async def scale(self, name: str, instances: int, author: Author) -> Service:
        """Change a service's capacity. Raises Busy during a rollout, which plans with the present one."""
        service = self._service(name)
        if instances < 1:
            raise InvalidTransition(f"{name} cannot have {instances} instances", "Ask for 1 or more.")
        self._refuse_when_busy(name)
        declared = service.declared or service.instances
        scaled = replace(service, instances=instances, declared=0 if instances == declared else declared)
        await self._resize(scaled, author, f"scale {name} from {service.instances} to {instances} instances")
        return scaled

    async def reload(self, name: str, author: Author) -> list[str]:
        """Hot restart every instance in place, one after the other. Raises ReloadRefused at the first that refuses."""
        self._service(name)
        ready = [i for i in self._records.instances(name) if i.phase in (Phase.READY, Phase.UNREADY)]
        if not ready:
            raise UnknownName(f"{name} has no running instance to reload", f"See `gapless status {name}`.")
        told = [f"{instance.id}: {await self._fleet.reload(instance)}" for instance in ready]

        async def write() -> None:
            await self._commit(self._change(author, f"hot restart of {len(ready)} instances of {name}", name))

        await _persist(write)
        return told

    async def tidy(self) -> None:
        """Remove the snapshots that nobody will go back to. Their records stay: they tell what a version was."""
        async with self._making:
            await self._fleet.prune({digest for s in self._records.services() for digest in self._kept(s.name)})

    def _kept(self, name: str) -> set[str]:
        recent = self._records.rollouts(name)[-RELEASES_KEPT:]
        split = self._records.split(name)
        running = {i.release for i in self._records.instances(name) if i.phase is not Phase.STOPPED}
        versions = {v for r in recent for v in (r.before, r.after)} | running
        versions |= {split.stable} if split else set()
        return {release.digest for v in versions if (release := self._records.release(name, v))}

    def _service(self, name: str) -> Service:
        service = self._records.service(name)
        if service is None:
            names = ", ".join(s.name for s in self._records.services()) or "none"
            raise UnknownName(f"there is no service {name!r}", f"The services are: {names}.")
        return service

    def _split(self, name: str) -> Split:
        split = self._records.split(name)
        if split is None:
            raise UnknownName(f"{name} has no release yet", "Its first one is being made; try again in a moment.")
        return split

    def _active(self, name: str) -> Rollout | None:
        newest = self._records.rollout(name)
        return newest if newest and not newest.state.ended else None

    def _cut_short(self, name: str, reason: str) -> list[Rollout]:
        """The rollout under way, ended where it stands: its service is no more."""
        active, now_at = self._active(name), self._world.time()
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

    def _refuse_when_busy(self, name: str) -> None:
        active = self._active(name)
        if active:
            raise Busy(
                f"rollout {active.number} of {name} ({active.before} → {active.after}) is under way",
                f"Wait for its end, or `gapless rollback {name}`.",
            )

    async def _make(self, service: Service, source: Path, version: str, env: Mapping[str, str]) -> Release:
        made = await self._fleet.snapshot(service, source, version, {**service.env, **env})
        release = replace(made, version=version or f"r-{made.digest[:7]}", created_at=self._world.time())
        known = self._records.release(service.name, release.version)
        if known and (known.digest, known.env) != (release.digest, release.env):
            raise ReleaseError(
                f"{service.name} already has a release {release.version}, made of other content from {known.source}",
                "A release never changes: choose another version.",
            )
        return known or release

    async def _begin(self, service: Service, release: Release, author: Author, what: str) -> Rollout:
        name = service.name
        self._refuse_when_busy(name)
        split, newest = self._split(name), self._records.rollout(name)
        if release.version == split.stable:
            raise ReleaseError(f"{release.version} is already the stable release of {name}", "Choose another one.")
        rollout = Rollout(
            number=newest.number + 1 if newest else 1,
            service=name,
            before=split.stable,
            after=release.version,
            policy=service.rollout,
            instances=service.instances,
            started_at=self._world.time(),
            since_at=self._world.time(),
        )
        await self._commit(self._change(author, what, name), release, rollout)
        self._events(RolloutChanged(rollout=rollout))
        return rollout

    async def _resize(self, service: Service, author: Author, what: str) -> None:
        async def write() -> None:
            pool, split = self._records.pool(service.name), self._split(service.name)
            active = self._active(service.name)
            sizes = dict(pool.sizes) if pool and active else {split.stable: service.instances}
            change = self._change(author, what, service.name)
            await self._commit(change, service, Pool(service=service.name, sizes=sizes))

        await _persist(write)

    def _change(self, author: Author, what: str, service: str) -> Change:
        return Change(
            number=self._records.next_change(),
            at=self._world.time(),
            who=author.who,
            what=what,
            service=service,
            why=author.why,
            ticket=author.ticket,
        )

    async def _commit(self, change: Change, *values: Any, delete: list[Any] | None = None) -> None:
        await self._records.write(change, *values, delete=delete or ())
        self._events(ChangeRecorded(change=change))


def merged(known: Service, service: Service) -> Service:
    """The definition of gapless.yaml with the capacity that `scale` has set, unless the file now asks for another one:
    a control plane that is started again must not take instances away."""
    if not known.declared or service.instances != known.declared:
        return service
    return replace(service, instances=known.instances, declared=known.declared)


async def _persist(write: Callable[[], Awaitable[T]]) -> T:
    """Decide and write again when another change took the number first."""
    for _ in range(AMEND_TRIES - 1):
        try:
            return await write()
        except Conflict:
            continue
    return await write()

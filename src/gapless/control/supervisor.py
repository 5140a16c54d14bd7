"""Keeps every pool at its wanted size: brings records and processes together and does what `core.supervise` decides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from gapless.control.loop import Jobs
from gapless.control.records import Records
from gapless.core.errors import InstanceFailed
from gapless.core.events import Events, InstanceChanged
from gapless.core.lifecycle import move
from gapless.core.model import Address, Instance, Phase, Service
from gapless.core.ports import Fleet, Running, World
from gapless.core.supervise import Drain, Forget, Start, Stop, supervise

LOG_LINES = 20
"""Of a failed instance's log, kept with the reason."""
NEEDS_LIMIT_S = 30.0
"""How long a service waits for those it needs before it is started without them."""


def with_last_word(how: str, log: str) -> str:
    """How it ended, and the last error that it wrote about it: the status alone tells nobody anything."""
    errors = [line.removeprefix("error: ") for line in log.splitlines() if line.startswith("error: ")]
    return f"{how}: {errors[-1]}" if errors else how


class Supervisor:
    """`step` is one look at all services. Until one has been taken, records may tell of processes that have ended while
    no control plane was there to see (`looked`)."""

    def __init__(
        self, records: Records, fleet: Fleet, world: World, events: Events, unrouted: Callable[[Instance], bool]
    ) -> None:
        self._records = records
        self._fleet = fleet
        self._world = world
        self._events = events
        self._unrouted = unrouted
        self._began = 0.0
        self.looked = False
        self.jobs = Jobs(lambda: None)

    async def step(self) -> None:
        """Raises nothing of its own; see Loop."""
        begun = {i.id for i in self._records.instances() if i.pid}  # before the list, which is old when it arrives
        running = {r.id: r for r in await self._fleet.list()}
        known = {i.id for i in self._records.instances()}
        for stray in running.keys() - known:
            self._remove_stray(stray)
        for service in self._records.services():
            for instance in self._records.instances(service.name):
                await self._meet(service, instance, running, begun)
            await self._act(service)
        self.looked = True

    def _remove_stray(self, name: str) -> None:
        """A process of ours that no record wants: its record was written off while nobody watched."""
        stray = Instance(id=name, service="", release="", address=Address(host="", port=0))

        async def remove() -> None:
            await self._fleet.stop(stray, 0.0)
            await self._fleet.forget(name)

        self.jobs.start(f"remove {name}", remove)

    async def _meet(
        self, service: Service, instance: Instance, running: Mapping[str, Running], begun: Collection[str]
    ) -> None:
        """Bring one record in line with what truly runs."""
        if instance.phase is Phase.STOPPED or f"stop {instance.id}" in self.jobs:
            return
        found = running.get(instance.id)
        if found and found.alive:
            if instance.pid != (pid := found.pid):
                await self._records.amend(instance, lambda now: replace(now, pid=pid))
        elif found or instance.id in begun:
            await self._ended(instance, found.detail if found else "it ended while no control plane was there to see")
        elif instance.phase is Phase.STARTING and not instance.pid:
            self.jobs.start(f"start {instance.id}", lambda: self._launch(service, instance))

    async def _ended(self, instance: Instance, how: str) -> None:
        wanted_end = instance.phase is Phase.DRAINING and not instance.failed
        log = "" if wanted_end else self._fleet.tail(instance.id, LOG_LINES)
        detail = instance.detail if instance.phase is Phase.DRAINING else with_last_word(how, log)
        await self._settle(instance, failed=not wanted_end, detail="\n".join(filter(None, (detail, log))))
        await self._fleet.forget(instance.id)

    async def _settle(self, instance: Instance, *, failed: bool, detail: str) -> None:
        await self._move(instance, Phase.STOPPED, failed, detail)

    async def _move(self, instance: Instance, to: Phase, failed: bool, detail: str) -> None:
        now_at = self._world.time()
        moved = await self._records.amend(instance, lambda i: replace(move(i, to, now_at, detail), failed=failed))
        if moved:
            self._events(InstanceChanged(instance=moved))

    async def _act(self, service: Service) -> None:
        pool = self._records.pool(service.name)
        instances = self._records.instances(service.name)
        unrouted = {i.id for i in instances if self._unrouted(i)}
        actions = supervise(
            pool.sizes if pool else {}, instances, self._world.time(), start_s=service.start_s, unrouted=unrouted
        )
        by_id = {i.id: i for i in instances}
        for action in actions:
            match action:
                case Start(release):
                    if not self._must_wait(service, instances):
                        await self._start(service, release)
                case Drain(name, why, failed):
                    await self._move(by_id[name], Phase.DRAINING, failed, why)
                case Stop(name):
                    self._stop(service, by_id[name])
                case Forget(name):
                    await self._records.write(delete=[by_id[name]])

    def _must_wait(self, service: Service, instances: list[Instance]) -> bool:
        """Ordered start: a service that does not run yet waits for those it needs, but not for ever: with one of them
        broken for good it may still answer some requests."""
        self._began = self._began or self._world.now()
        if any(i.phase is not Phase.STOPPED for i in instances) or self._world.now() - self._began > NEEDS_LIMIT_S:
            return False
        return any(all(i.phase is not Phase.READY for i in self._records.instances(needed)) for needed in service.needs)

    async def _start(self, service: Service, release: str) -> None:
        now_at = self._world.time()
        instance = Instance(
            id=f"{service.name}-{self._world.token()}",
            service=service.name,
            release=release,
            address=await self._fleet.allocate(),
            since_at=now_at,
            created_at=now_at,
            zone=self._zone(service, release),
        )
        await self._records.write(instance)  # before the process: a crash in between leaves a record, never a stranger
        self._events(InstanceChanged(instance=instance))
        self.jobs.start(f"start {instance.id}", lambda: self._launch(service, instance))

    def _zone(self, service: Service, release: str) -> str:
        """The one with the fewest instances of the release, the first of several."""
        live = [i for i in self._records.instances(service.name) if i.phase is not Phase.STOPPED]
        here = [i.zone for i in live if i.release == release]
        return min(service.upstream.zones, key=here.count, default="")

    async def _launch(self, service: Service, instance: Instance) -> None:
        release = self._records.release(service.name, instance.release)
        try:
            if release is None:
                raise InstanceFailed(f"release {instance.release} of {service.name} is not in the store")
            pid = await self._fleet.start(instance, release, service)
        except InstanceFailed as error:
            await self._settle(instance, failed=True, detail=str(error))
            return
        await self._records.amend(instance, lambda now: replace(now, pid=pid))

    def _stop(self, service: Service, instance: Instance) -> None:
        async def stop() -> None:
            log = self._fleet.tail(instance.id, LOG_LINES) if instance.failed else ""
            await self._fleet.stop(instance, service.drain_s)
            detail = "\n".join(filter(None, (instance.detail, log)))
            await self._settle(instance, failed=instance.failed, detail=detail)
            await self._fleet.forget(instance.id)

        self.jobs.start(f"stop {instance.id}", stop)

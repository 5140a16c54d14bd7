"""The control plane: composition root of a system. `start` brings everything up, `stop` takes everything down.

It owns nothing that the request path needs: instances and gateway are processes of their own that survive it, and
whoever starts next on the same state directory adopts them and goes on from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from gapless.config import System
from gapless.control.commands import Author, Commands
from gapless.control.figures import Figures
from gapless.control.gateway import Gateway
from gapless.control.loop import Loop
from gapless.control.prober import Probe, Prober, probe_http
from gapless.control.records import Records
from gapless.control.roller import Roller
from gapless.control.router import Feed, Router
from gapless.control.shutdown import impatiently, stop_instances
from gapless.control.status import service_status
from gapless.control.supervisor import Supervisor
from gapless.core.events import Events
from gapless.core.model import Phase, Rollout
from gapless.core.ports import Fleet, Store, World

_log = logging.getLogger("gapless.control")

SUPERVISE_EVERY_S = 0.25
PROBE_EVERY_S = 0.05
ROUTE_EVERY_S = 0.1
JUDGE_EVERY_S = 0.5
MEASURE_EVERY_S = 1.0
READY_LOOK_S = 0.05
TIDY_EVERY_S = 600.0
CONTROL_PLANE = Author(who="gapless", why="control plane")


class ControlPlane:
    """Composed of a store, a fleet and a gateway; the defaults are SQLite, local processes and Envoy."""

    def __init__(
        self,
        system: System,
        store: Store,
        fleet: Fleet,
        gateway: Gateway,
        world: World,
        events: Events,
        probe: Probe = probe_http,
    ) -> None:
        self.system = system
        self.events = events
        self.feed = Feed(system.state / "discovery.json")
        self.gateway = gateway
        self._store = store
        self._fleet = fleet
        self._world = world
        self._bell = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.records = Records(store, self._on_write)
        self.commands = Commands(self.records, fleet, world, self.events)
        self._router = Router(self.records, gateway, self.feed, world, self.events)
        self._supervisor = Supervisor(self.records, fleet, world, self.events, self._router.unrouted)
        self._prober = Prober(self.records, world, self.events, probe)
        self._figures = Figures(self.records, gateway, fleet, world)
        self._roller = Roller(self.records, self._figures, self._router, world, self.events)
        self._supervision = Loop("supervisor", self._supervisor.step, SUPERVISE_EVERY_S, world)
        self._loops = (
            Loop("router", self._router.step, ROUTE_EVERY_S, world),
            self._supervision,
            Loop("prober", self._prober.step, PROBE_EVERY_S, world),
            Loop("figures", self._figures.step, MEASURE_EVERY_S, world, woken=False),
            Loop("roller", self._roller.step, JUDGE_EVERY_S, world),
            Loop("tidying", self.commands.tidy, TIDY_EVERY_S, world, woken=False),
        )

    def _on_write(self) -> None:
        for loop in self._loops:
            loop.changed()
        self._bell.set()
        self._bell = asyncio.Event()

    async def start(self) -> None:
        """Read the records, take the definitions of gapless.yaml, start the gateway and the loops. Raises what they
        raise; whatever was started by then is taken down by `stop`."""
        await self.records.load()
        starting = asyncio.create_task(self.gateway.start(), name="gateway")
        try:
            await self._admit()
        finally:
            await starting
        self._tasks = [asyncio.create_task(loop.run(), name=loop.name) for loop in self._loops]
        self._tasks.append(asyncio.create_task(self._watch_fleet(), name="fleet watch"))

    async def _admit(self) -> None:
        for service in self.system.services.values():
            await self.commands.admit(service, CONTROL_PLANE)
        for service in self.records.services():
            if service.name not in self.system.services:
                await self.commands.dismiss(service, CONTROL_PLANE)

    async def _watch_fleet(self) -> None:
        async with self._fleet.changed() as ticks:
            async for _ in ticks:
                self._supervision.wake()

    @property
    def ready(self) -> bool:
        """Every service has its instances ready and the gateway obeys the newest records."""
        obeyed = self.gateway.settled and self._router.applied >= self.records.revision
        return obeyed and all(self._is_ready(name) for name in self.system.services)

    def _is_ready(self, name: str) -> bool:
        pool = self.records.pool(name)
        ready = [i.release for i in self.records.instances(name) if i.phase is Phase.READY]
        return pool is not None and all(ready.count(release) >= size for release, size in pool.sizes.items())

    async def wait_ready(self) -> None:
        """Until `ready`."""
        while not self.ready:
            await self._world.sleep(READY_LOOK_S)

    def status(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {
            "system": self.system.name,
            "ready": self.ready,
            "listen": str(self.system.gateway.listen),
            "state": str(self.system.state),
            "gateway": {"pid": self.gateway.pid, "restarts": self.gateway.restarts, "refusal": self._router.refusal},
            "services": {s.name: service_status(self.records, s) for s in self.records.services()},
        }

    async def follow(self, name: str, number: int) -> AsyncIterator[Rollout]:
        """A rollout as it is, then each time it has moved, until it has ended."""
        shown: Rollout | None = None
        while shown is None or not shown.state.ended:
            bell = self._bell
            now = next((r for r in self.records.rollouts(name) if r.number == number), None)
            if now is None:
                return
            if now != shown:
                shown = now
                yield now
                continue
            await bell.wait()

    async def stop(self, *, at_once: Callable[[], bool] = lambda: False) -> None:
        """Take everything down: the gateway first (it finishes what it has begun), then the instances, callers before
        those they call, each drained within its limit. `at_once()` turning true cuts the drain short."""
        await self._end_loops()
        errors: list[Exception] = []
        for act in (
            impatiently(self.gateway.stop(self._drain_s()), at_once),
            stop_instances(self.records, self._fleet, at_once),
            self._fleet.close(),
            self._store.close(),
        ):
            try:
                await act
            except Exception as error:  # noqa: BLE001 the clean-up goes on; all of it is raised at the end
                errors.append(error)
        self.feed.remove()
        if errors:
            raise ExceptionGroup("not everything could be taken down", errors)

    def _drain_s(self) -> float:
        return max((service.drain_s for service in self.records.services()), default=0.0)

    async def take_down(self) -> None:
        """`stop` for what a killed control plane has left."""
        await self.records.load()
        await self.gateway.adopt()
        await self.stop()

    async def detach(self) -> None:
        """Leave everything running for the next control plane."""
        await self._end_loops()
        await self.gateway.detach()
        await self._fleet.close()
        await self._store.close()

    async def _end_loops(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._supervisor.jobs.cancel()
        await self._prober.jobs.cancel()

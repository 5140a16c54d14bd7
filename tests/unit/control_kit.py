"""A whole control plane on pretended parts: time, fleet, gateway and store; nothing is slept and nothing is started."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from gapless.config import Gateway, Registry, System
from gapless.control.commands import Author
from gapless.control.gates.comparer import StartComparer
from gapless.control.gates.run import RunGate
from gapless.control.plane import ControlPlane
from gapless.core.events import Event, Events
from gapless.core.model import BUCKETS, Address, Instance, Phase, RolloutPolicy, Route, Service
from gapless.core.model.alert import AlertPolicy
from gapless.core.ports import Queries, Signals
from gapless.discovery.catalog.catalog import Catalog
from gapless.store.memory import MemoryStore
from gapless.testing.fleet import FakeFleet
from gapless.testing.traffic import FakeTraffic
from gapless.testing.world import FakeWorld

ME = Author(who="tester", why="a test")
POLICY = RolloutPolicy(steps=(3_000, BUCKETS), hold_s=2.0, min_samples=10, power=0.0, patience_s=120.0)
WEB = Service(
    name="web",
    app="web:app",
    source="v1",
    instances=2,
    routes=(Route(),),
    rollout=POLICY,
    start_s=5.0,
    drain_s=1.0,
)


class Rig:
    """`up` begins a control plane, `kill` ends it as SIGKILL would, `up` again begins the next one on what is left."""

    def __init__(self, *services: Service, registry: Registry | None = None) -> None:
        self.registry = registry
        self.catalog: Catalog | None = None
        self.world = FakeWorld()
        self.fleet = FakeFleet()
        self.traffic = FakeTraffic(self.world)
        self.store = MemoryStore(self.world)
        self.events: list[Event] = []
        self.services = {service.name: service for service in services or (WEB,)}
        self._directory = tempfile.TemporaryDirectory(prefix="g-")
        self.signals: Signals | None = None
        self.queries: Queries | None = None
        self.load = 40
        """Requests per second, divided among the releases by the split in force."""
        self.run_gate: RunGate | None = None
        self.start_comparer: StartComparer | None = None
        self.alerts = AlertPolicy()
        self.bad: set[str] = set()
        """Releases of which every second answer is an error."""

    async def up(self) -> ControlPlane:
        state = Path(self._directory.name)
        system = System(
            name="tiny",
            gateway=Gateway(listen=Address(host="127.0.0.1", port=1)),
            services=self.services,
            state=state,
            path=state / "gapless.yaml",
            registry=self.registry,
            alerts=self.alerts,
        )
        events = Events([self.events.append])
        if self.registry:
            self.catalog = Catalog(self.store, self.world, name=self.registry.node)
            await self.catalog.start()
        self.plane = ControlPlane(
            system,
            self.store,
            self.fleet,
            self.traffic,
            self.world,
            events,
            self._probe,
            catalog=self.catalog,
            signals=self.signals,
            queries=self.queries,
            run_gate=self.run_gate,
            start_comparer=self.start_comparer,
        )
        await self.plane.start()
        return self.plane

    async def _probe(self, instance: Instance, path: str) -> tuple[bool, str]:
        ready = self.fleet.probe(instance.id)
        return ready, "" if ready else "still warming up"

    async def pass_time(self, seconds: float) -> None:
        """With requests coming in at the rate of `load`."""
        for _ in range(round(seconds * 4)):
            self._serve()
            await self.world.advance(0.25)

    async def settle(self) -> None:
        """Until everything is ready."""
        for _ in range(200):
            if self.plane.ready:
                return
            await self.pass_time(0.25)
        raise AssertionError(f"never ready: {self.plane.status()}")

    async def end_rollout(self, service: str = "web") -> str:
        """How the newest rollout ends."""
        for _ in range(400):
            rollout = self.plane.records.rollout(service)
            if rollout and rollout.state.ended:
                return str(rollout.state)
            await self.pass_time(0.5)
        raise AssertionError(f"never ended: {self.plane.status()}")

    async def kill(self) -> None:
        """Nothing is written any more from here on."""
        await self.plane._end_loops()
        if self.catalog:
            await self.catalog.aclose()

    async def down(self) -> None:
        stopping = asyncio.ensure_future(self.plane.stop())
        while not stopping.done():
            await self.world.advance(0.5)
            await asyncio.sleep(0)
        await stopping
        if self.catalog:
            await self.catalog.aclose()
        self._directory.cleanup()

    def live(self, service: str = "web") -> list[Instance]:
        return [i for i in self.plane.records.instances(service) if i.phase is not Phase.STOPPED]

    def releases(self, service: str = "web") -> list[str]:
        return sorted(i.release for i in self.live(service))

    def _serve(self) -> None:
        for table in self.traffic.table.services:
            for release, weight in table.split.weights:
                if requests := round(self.load / 4 * weight / BUCKETS):
                    errors = requests // 2 if release in self.bad else 0
                    users = tuple(f"u{self.world.now()}-{n}" for n in range(errors))
                    self.traffic.record(table.service, release, requests=requests, errors=errors, users=users)


def wanting(instances: int) -> Service:
    return replace(WEB, instances=instances)

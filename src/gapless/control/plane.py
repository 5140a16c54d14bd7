"""The control plane: composition root of a system. `start` brings everything up, `stop` takes everything down.

It owns nothing that the request path needs: instances and gateway are processes of their own that survive it, and
whoever starts next on the same state directory adopts them and goes on from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gapless.config import System, load
from gapless.config.file import same_file
from gapless.control.applying import Applying
from gapless.control.commands import Author, Commands
from gapless.control.configure import ConfigCommands
from gapless.control.dry_run import DryRun
from gapless.control.figures import Figures
from gapless.control.gate import GateCommands
from gapless.control.gates.comparer import StartComparer, comparers
from gapless.control.gates.gates import Gates
from gapless.control.gates.leavings import Leavings
from gapless.control.gates.mirrors import Mirrors
from gapless.control.gates.run import RunGate, Runner
from gapless.control.gateway import Gateway
from gapless.control.lookbook import WRITE_EVERY_S, Lookbook
from gapless.control.loop import Loop
from gapless.control.preflight import Preflight
from gapless.control.prober import Probe, Prober, probe
from gapless.control.publisher import Publisher
from gapless.control.records import Records
from gapless.control.registrar import Registrar, RegistryFirst
from gapless.control.roller import Roller
from gapless.control.rollouts import RolloutCommands
from gapless.control.router import SETTLE_S, Feed, Router
from gapless.control.sampler import Sampler
from gapless.control.scraper import NoSignals
from gapless.control.shutdown import impatiently, stop_instances
from gapless.control.splits import SplitCommands
from gapless.control.stager import Stager
from gapless.control.status import service_status
from gapless.control.supervisor import Supervisor
from gapless.control.undoing import Undoing
from gapless.control.watching import Watching
from gapless.core.errors import TrafficRefused
from gapless.core.events import Events
from gapless.core.model import Change, Phase, Rollout, RouteTable
from gapless.core.ports import Fleet, Queries, Signals, Store, World
from gapless.discovery.catalog.catalog import Catalog
from gapless.observe.lag import watch_lag
from gapless.observe.recorder.recorder import Recorder

_log = logging.getLogger("gapless.control")

SUPERVISE_EVERY_S = 0.25
PROBE_EVERY_S = 0.05
ROUTE_EVERY_S = 0.1
JUDGE_EVERY_S = 0.5
ROLL_EVERY_S = 0.25
"""Each second of answers is judged so soon after it is over."""
MEASURE_EVERY_S = 1.0
READY_LOOK_S = 0.05
TIDY_EVERY_S = 600.0
FAULTS_EVERY_S = 0.5
REGISTER_EVERY_S = 1.0
"""What others wrote over our rows in the registry is put right so soon; changes of ours are written at once."""
CONTROL_PLANE = Author(who="gapless", why="control plane")


class ControlPlane:
    """Composed of a store, a fleet and a gateway; the defaults are SQLite, local processes and Envoy. `catalog`: the
    registry that the instances are kept in, running from before `start` until after `stop`; None: in none."""

    def __init__(
        self,
        system: System,
        store: Store,
        fleet: Fleet,
        gateway: Gateway,
        world: World,
        events: Events,
        probe: Probe = probe,
        control: Callable[[], dict[str, Any]] = dict,
        catalog: Catalog | None = None,
        recorder: Recorder | None = None,
        signals: Signals | None = None,
        queries: Queries | None = None,
        run_gate: RunGate | None = None,
        start_comparer: StartComparer | None = None,
    ) -> None:
        """`control` tells `status` about the store and who leads. `recorder`: where metrics are kept; `signals`: a
        Prometheus that is asked instead; `queries`: who understands PromQL."""
        self.system = system
        self.events = events
        self.feed = Feed(system.state / "discovery.json")
        self.gateway = gateway
        self.catalog = catalog
        self.store = store
        self.fleet = fleet
        self._world = world
        self._control = control
        self._bell = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.records = Records(store, self._on_write)
        self.commands = Commands(self.records, fleet, world, self.events)
        self._apply_turn = asyncio.Lock()
        self._applying = Applying(self.records, self.commands, self.events)
        known: Signals = signals or recorder or NoSignals()
        self.preflight = Preflight(self.records, self.commands, known, world, lambda: load(system.path).services)
        self.rollouts = RolloutCommands(self.records, self.commands, world, self.events, self.preflight.refuse)
        self._registrar = self._registrar_in(catalog)
        traffic = RegistryFirst(gateway, self._registrar) if self._registrar else gateway
        linger_s = system.registry.linger_s if system.registry else 0.0
        settle_s = max(SETTLE_S, linger_s)
        base, state = system.path.parent, system.state
        start_comparer = start_comparer or comparers(world, system.network)
        self._mirrors = Mirrors(self.records, start_comparer, world, self.events, base=base, state=state)
        mirrors = self._mirrors.targets
        self._router = Router(self.records, traffic, self.feed, world, self.events, settle_s, mirrors)
        self._supervisor = Supervisor(self.records, fleet, world, self.events, self._router.unrouted)
        self.gate = GateCommands(self.records, gateway, world, self.events)
        self._prober = Prober(self.records, world, self.events, probe)
        self._figures = Figures(self.records, gateway, fleet, world)
        self.console = ""
        """Where the web console is, once somebody serves one."""
        self.publisher = Publisher(self.records, system.state / "config", world)
        self.config = ConfigCommands(self.records, self.publisher, self.commands, world, self.events)
        self.splits = SplitCommands(self.records, self.commands, self.rollouts)
        self.undoing = Undoing(self.records, self.commands, self.rollouts, self.config, self.splits, world, self.events)
        self.dry_run = DryRun(self.records, self.commands, self.rollouts, self._figures, world)
        self._stager = Stager(self.records, self.publisher, self._figures, world, self.events)
        self._sampler = Sampler(self.records, signals or recorder, queries, world)
        self.lookbook = Lookbook(store, world)
        self._roller = Roller(
            self.records, self._figures, self._sampler, self.lookbook, self._router, world, self.events
        )
        self.watching = Watching(
            system,
            self.records,
            self.commands,
            self.rollouts,
            self.config,
            fleet,
            gateway,
            world,
            self.events,
            signals=known,
            recorder=recorder,
        )
        self._supervision = Loop("supervisor", self._supervisor.step, SUPERVISE_EVERY_S, world)
        run_gate = run_gate or Runner(world)
        self._gates = Gates(self.records, run_gate, world, self.events, base=base, state=state)
        self._loops = (
            Loop("router", self._router.step, ROUTE_EVERY_S, world),
            self._supervision,
            Loop("prober", self._prober.step, PROBE_EVERY_S, world),
            Loop("figures", self._figures.step, MEASURE_EVERY_S, world, woken=False),
            Loop("sampler", self._sampler.step, MEASURE_EVERY_S, world, woken=False),
            Loop("gates", self._gates.step, JUDGE_EVERY_S, world),
            Loop("mirrors", self._mirrors.step, JUDGE_EVERY_S, world),
            Loop("lookbook", self.lookbook.step, WRITE_EVERY_S, world, woken=False),
            Loop("roller", self._roller.step, ROLL_EVERY_S, world),
            Loop("publisher", self.publisher.step, ROUTE_EVERY_S, world),
            Loop("stager", self._stager.step, JUDGE_EVERY_S, world),
            Loop("welcome", self.commands.welcome, SUPERVISE_EVERY_S, world),
            Loop("faults", self.gate.tidy, FAULTS_EVERY_S, world, woken=False),
            Loop("tidying", self.commands.tidy, TIDY_EVERY_S, world, woken=False),
            Loop("tidying gates", Leavings(self.records, state).tidy, TIDY_EVERY_S, world, woken=False),
            *self.watching.loops(),
            *([Loop("registrar", self._registrar.step, REGISTER_EVERY_S, world)] if self._registrar else ()),
        )

    def _registrar_in(self, catalog: Catalog | None) -> Registrar | None:
        zone = self.system.registry.zone if self.system.registry else ""
        return Registrar(self.records, catalog, self.system.name, zone) if catalog else None

    def _on_write(self) -> None:
        for loop in self._loops:
            loop.changed()
        self._bell.set()
        self._bell = asyncio.Event()

    @property
    def bell(self) -> asyncio.Event:
        """Set at the next write of a record; each write hangs up another one."""
        return self._bell

    async def start(self) -> None:
        """Read the records, take the definitions of gapless.yaml, start the gateway and the loops. Raises what they
        raise; whatever was started by then is taken down by `stop`."""
        await self.records.load()
        await self.watching.open()
        await self.publisher.step()  # running instances need not wait for the snapshots of others
        if self._registrar:
            await self._registrar.step()  # what an earlier control plane left there may have ended since
        starting = asyncio.create_task(self.gateway.start(), name="gateway")
        try:
            await self._applying.apply(self.system.services, CONTROL_PLANE)
            await self.commands.forget()
        finally:
            await starting
        self._tasks = [asyncio.create_task(loop.run(), name=loop.name) for loop in self._loops]
        self._tasks.append(asyncio.create_task(self._watch_fleet(), name="fleet watch"))
        if self.watching.records_metrics:
            lag = watch_lag(self._world, self.watching.scraper.own.lag)
            self._tasks.append(asyncio.create_task(lag, name="loop lag"))

    async def _watch_fleet(self) -> None:
        async with self.fleet.changed() as ticks:
            async for _ in ticks:
                self._supervision.wake()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._world.time()

    @property
    def ready(self) -> bool:
        """Every service has its instances ready and the gateway obeys the newest records."""
        obeyed = self.gateway.settled and self._router.applied >= self.records.revision
        return obeyed and self._supervisor.looked and all(self._is_ready(name) for name in self.system.services)

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
            "scheme": "https" if self.system.gateway.certificates else "http",
            "console": self.console,
            "state": str(self.system.state),
            "control": self._control(),
            "gateway": {"pid": self.gateway.pid, "restarts": self.gateway.restarts, "refusal": self._router.refusal},
            "registry": self.system.registry.status() if self.system.registry else None,
            "services": {s.name: service_status(self.records, s) for s in self.records.services()},
        }

    async def apply(self, file: Path, author: Author, *, dry_run: bool = False) -> tuple[Change, ...]:
        """Read gapless.yaml again, and make it what holds; returns what was (or would be) changed.

        Raises ConfigError with all that is wrong in it, or that needs a new start; Busy; ReleaseError; TrafficRefused
        in the gateway's words. In each case all is as it was.
        """
        async with self._apply_turn:
            return await self._apply(file, author, dry_run=dry_run)

    async def _apply(self, file: Path, author: Author, *, dry_run: bool) -> tuple[Change, ...]:
        system = await asyncio.to_thread(load, file)
        same_file(self.system, system)
        self._applying.check(system.services)
        policies = self.watching.policy_changes(self.system, system, author)
        if dry_run:
            return (*self._applying.preview(system.services, author).changes, *policies)
        applied = await self._applying.apply(system.services, author)
        try:
            await self._router.obeyed(applied.revision)
        except TrafficRefused as refused:
            await self._applying.restore(applied, replace(CONTROL_PLANE, why=refused.what))
            await self.commands.forget()
            raise TrafficRefused(f"{refused.what}; nothing of gapless.yaml was applied", refused.remedy) from refused
        self.system = replace(self.system, services=system.services)
        await self.commands.forget()
        self.system, taken = await self.watching.take_policies(self.system, system, author)
        return (*applied.changes, *taken)

    @property
    def table(self) -> RouteTable:
        """What the gateway obeys."""
        return self._router.table

    @property
    def refusal(self) -> str:
        """The gateway's words about a newer table; empty when it refused none."""
        return self._router.refusal

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

    async def changes(self) -> AsyncIterator[list[Change]]:
        """The change log, newest first, now and each time it has grown."""
        newest = -1
        while True:
            bell = self._bell
            if (last := self.records.next_change()) != newest:
                newest = last
                yield list(self.records.all_changes())
                continue
            await bell.wait()

    async def stop(self, *, at_once: Callable[[], bool] = lambda: False) -> None:
        """Take everything down: the gateway first (it finishes what it has begun), then the instances, callers before
        those they call, each drained within its limit. `at_once()` turning true cuts the drain short."""
        await self._end_loops()
        errors: list[Exception] = []
        for act in (
            self._leave_registry(),
            impatiently(self.gateway.stop(self._drain_s()), at_once),
            stop_instances(self.records, self.fleet, at_once),
            self._clear_registry(),
            self.fleet.close(),
            self.lookbook.step(),
            self.watching.close(),
            self.store.close(),
        ):
            try:
                await act
            except Exception as error:  # noqa: BLE001 the clean-up goes on; all of it is raised at the end
                errors.append(error)
        self.feed.remove()
        if errors:
            raise ExceptionGroup("not everything could be taken down", errors)

    async def _leave_registry(self) -> None:
        if self._registrar:
            await self._registrar.leave()

    async def _clear_registry(self) -> None:
        if self._registrar:
            await self._registrar.step()

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
        await self.fleet.close()
        await self.lookbook.step()
        await self.watching.close()
        await self.store.close()

    async def _end_loops(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._supervisor.jobs.cancel()
        await self._prober.jobs.cancel()
        await self._gates.cancel()
        await self.watching.cancel()
        await self._mirrors.cancel()

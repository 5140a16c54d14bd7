"""The service kit: everything between an ASGI app and a server that replaces it without losing a request.

    service = Service("orders", app)

    @service.resource
    async def database():
        async with connect() as connection:
            yield connection

Ordered start-up (settings → resources → warm-up → checks pass → ready), probes, metrics, background work and a drain
with limits. `gapless serve module:app` wraps any ASGI app in one of these by itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from gapless.core.events import Events
from gapless.core.lifecycle import DrainLimits, drain_limits
from gapless.core.phase import Phase
from gapless.core.world import RealWorld
from gapless.observe.metrics import Meter, Sample
from gapless.resilience.deadline import within
from gapless.service import carry as carrying
from gapless.service import checks, loader, probes
from gapless.service.asgi import App, Receive, Scope, Send, not_found
from gapless.service.business import Business
from gapless.service.clients import Clients
from gapless.service.configuration import Configuration
from gapless.service.identity import Identity
from gapless.service.interface import THREADS, Interface, as_asgi3, interface_of
from gapless.service.lifespan import lifespan, obey
from gapless.service.mount import mounted
from gapless.service.policies import Policies
from gapless.service.requests import Requests, Traffic
from gapless.service.resources import Opener, Resources, opener
from gapless.service.stages import Stages, StartLimits
from gapless.service.tasks import Tasks
from gapless.service.tracing import Tracing, tracing_of
from gapless.service.vitals import Vitals

if TYPE_CHECKING:
    from gapless.config.live_settings import Live
    from gapless.core.ports import World
    from gapless.discovery.directory import Directory
    from gapless.resilience.guards import Guards
    from gapless.service.client import Client

F = TypeVar("F", bound=Callable[..., Any])
_log = logging.getLogger("gapless.kit")

DEADLINE_S = 60.0
"""The longest that a request may take here when its caller says nothing: four times what the gateway waits."""
START_S = 30.0
DRAIN_S = 30.0
"""Limits when a foreign server runs the service through its lifespan; `gapless serve` brings its own."""


class Service:
    """A service around an ASGI app. As a callable it is the outer ASGI app, for servers that speak lifespan."""

    def __init__(
        self,
        name: str | None = None,
        app: Any = None,
        *,
        settings: Callable[[], Any] | Live[Any] | None = None,
        deadline_s: float = DEADLINE_S,
        limits: StartLimits | None = None,
        identity: Identity | None = None,
        world: World | None = None,
        events: Events | None = None,
        directory: Directory | None = None,
    ) -> None:
        known = identity or Identity.from_env()
        self.name = known.service or name or "service"  # the deployment's name wins: others know it by that
        self.identity = replace(known, service=self.name)
        self.world = world or RealWorld()
        self.events = events or Events()
        self.meter = Meter()
        self.metric = Business(self.meter)
        self._vitals = Vitals(self.meter, self.world)
        self._configuration = Configuration(settings, self.identity, self.world)
        self._configuration.observe(self.meter)
        self.settings: Any = self._configuration.live  # what a function makes of it comes with the start
        self.threads = THREADS  # that a WSGI app gets
        self.root_path = ""  # below which the app lies
        self._given = not_found if app is None else app
        self._deadline_s = deadline_s
        self._limits = limits or StartLimits()
        self._directory = directory
        self._openers: dict[str, Opener] = {}
        self._warm_ups: list[Callable[[], Any]] = []
        self._loops: dict[str, Callable[[], Any]] = {}
        self._checks = checks.Checks(self.world)
        self._tasks = Tasks(self.world, self.meter)
        self._resources = Resources(self.world)
        self._clients = Clients(lambda: self.directory, self.world, self.meter, self.identity.zone)
        self._state: dict[str, Any] = {}
        self.policies = Policies(self.world, self.meter)
        self.carrying = carrying.Carrying(self.world, self.policies.state)
        self._phase = Phase.STARTING
        self._stages = Stages(self.world, self.meter, self.events)

    # What the author declares.

    def resource(self, function: F) -> F:
        """Decorator: an async generator function that yields once, or a function that returns an async context manager.
        Opened at the start in order of declaration, closed in reverse; the value is `service.resources[name]`, and in
        the `state` of each request's scope."""
        self._openers[function.__name__] = opener(function)
        return function

    def warm_up(self, function: F) -> F:
        """Decorator: called once after the resources are open. A function that is not async runs in a thread."""
        self._warm_ups.append(function)
        return function

    @overload
    def check(self, function: F, /) -> F: ...
    @overload
    def check(self, function: None = None, /, *, timeout_s: float = ..., every_s: float = ...) -> Callable[[F], F]: ...
    def check(
        self, function: F | None = None, /, *, timeout_s: float = checks.TIMEOUT_S, every_s: float = checks.EVERY_S
    ) -> F | Callable[[F], F]:
        """Decorator: readiness depends on it. It fails by returning False or raising; a returned text is its detail."""

        def add(call: F) -> F:
            self._checks.add(checks.Check(name=call.__name__, call=call, timeout_s=timeout_s, every_s=every_s))
            return call

        return add if function is None else add(function)

    def task(self, function: F) -> F:
        """Decorator: an async function that runs beside the requests until it returns or the drain cancels it. A crash
        is logged, counted and restarted with backoff."""
        self._loops[function.__name__] = function
        return function

    def carry(
        self, name: str, *, dump: Callable[[], Any], load: Callable[[Any], Any], limit: int | str = carrying.LIMIT
    ) -> None:
        """State in memory that the process which takes this one's place begins with: `dump` returns bytes or a value
        that JSON can hold, `load` is called with it before the first request. Both may be async; all dumps together
        have half a second. What is over `limit` ("8MB"), too late or broken stays behind. Raises ValueError when the
        name is taken."""
        self.carrying.add(name, dump, load, limit)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Work that outlives the request that began it; a drain waits for it."""
        return self._tasks.spawn(work, name)

    def client(self, name: str, *, balance: str = "p2c_peak_ewma") -> Client:
        """The client for another service, found through discovery; one per name and balancer (`discovery.balancers`).
        Raises UnknownName for a balancer that does not exist."""
        return self._clients.get(name, balance)

    # What is known.

    @property
    def resources(self) -> Mapping[str, Any]:
        """What the open resources yielded, by name."""
        return self._resources.values

    @property
    def guards(self) -> Guards:
        """The author's guards: `service.guards.define("payments", …)`, `service.guards.add(payments)`. The metrics show
        them, and what they remember travels to the next process."""
        return self.policies.guards

    @cached_property
    def directory(self) -> Directory:
        """Where other services are: streamed from the control plane, when this process was started by one, or from
        the source that GAPLESS_DISCOVERY names."""
        return self._directory or self.identity.directory(self.world)

    @property
    def phase(self) -> Phase:
        if self._phase is Phase.READY and not self._checks.passing:
            return Phase.UNREADY
        return self._phase

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY

    def unready(self) -> str:
        """Why it is not ready; empty when it is."""
        if self.ready:
            return ""
        return self._failing() or f"it is {self.phase.value}"

    @property
    def answered(self) -> int:
        """How many requests it has answered, probes not counted."""
        return self.traffic.answered

    def health(self) -> dict[str, Any]:
        """The JSON of the probes, from the last results (see `probes.report`)."""
        return probes.report(self.identity, self.phase, self._checks.results, self.world.time())

    def samples(self) -> list[Sample]:
        """A JSON-able snapshot of this worker's metrics (see `observe.metrics`)."""
        return self.meter.samples()

    @cached_property
    def _inner(self) -> App:
        """The wrapped app, whatever it speaks. Raises AppError, ConfigError."""
        app = as_asgi3(self._given, interface_of(self._given), self.threads)
        return self._configuration.around(mounted(app, self.root_path))

    @cached_property
    def app(self) -> Requests:
        """The ASGI app to serve HTTP with: probes, context and counting around the wrapped app."""
        self.say_who()
        return Requests(
            self._protected(),
            self._probes(),
            self.identity,
            world=self.world,
            meter=self.meter,
            deadline_s=self._deadline_s,
            state=self._state,
            tracing=self.tracing,
        )

    @cached_property
    def tracing(self) -> Tracing:
        """Raises ConfigError."""
        return tracing_of(self.identity, self.world)

    def say_who(self) -> None:
        """In the metrics."""
        info = self.meter.gauge("gapless_workers", "Workers by what they run", ("service", "release", "instance"))
        info.labels(self.name, self.identity.release, self.identity.instance).set(1)

    @property
    def traffic(self) -> Traffic:
        """What a drain waits for."""
        return self.app

    def _protected(self) -> App:
        """The wrapped app behind the policies that gapless.yaml gives it, if it does. Raises ConfigError."""
        if not self.identity.protect and not self.identity.controlled:
            return self._inner
        return self.policies.protect(self.name, self._inner, self.identity.protect, self.directory)

    # The life of it.

    async def start(self, limit_s: float = START_S) -> None:
        """Everything in order until ready. Raises NotReady (a limit passed, or checks do not pass) or AppError (what
        was called failed), naming the stage; what was opened until then is closed again."""
        end = self.world.now() + limit_s
        _ = self.traffic
        self.tracing.start()
        stages = (
            ("settings", self._limits.settings_s, self._load_settings),
            ("resources", self._limits.resources_s, self._open_resources),
            ("warm-up", self._limits.warm_up_s, self._warm),
            ("checks", self._limits.checks_s, self._checks.wait_passing),
        )
        try:
            for name, own_s, work in stages:
                late = self._failing if name == "checks" else str
                await self._stages.run(name, min(own_s, end - self.world.now()), work, late)
        except BaseException as error:
            await self._abandon(error)
            raise
        for name, loop in (*self._checks.loops(), *self._configuration.loops().items(), ("vitals", self._vitals.watch)):
            self._tasks.supervise(name, loop)
        self._vitals.garbage.start()
        if self._phase is Phase.STARTING:
            self._phase = Phase.READY

    def announce(self) -> None:
        """From now on unready, while requests are still served: callers learn of the drain before it hurts them."""
        self._phase = Phase.DRAINING

    async def finish(self, limit_s: float) -> bool:
        """Wait until requests in flight and spawned work have ended; then supervised tasks are cancelled. False when
        the limit passed first: what was still going on is logged, and spawned work is cancelled."""
        self.announce()
        began = self.world.now()
        try:
            async with within(self.world, limit_s):
                while self.traffic.in_flight or self._tasks.unfinished():
                    await self.traffic.wait_idle()
                    await self._tasks.wait_spawned()
            left = []
        except TimeoutError:
            left = self._left()
        await self._tasks.cancel()
        self._stages.ended("finish", began, ok=not left, detail=", ".join(left[:20]))
        return not left

    async def close(self, limit_s: float) -> None:
        """Close the resources in reverse, each limited. Raises an ExceptionGroup at the end."""
        began = self.world.now()
        self._phase = Phase.STOPPED
        self._vitals.garbage.stop()
        try:
            await self._resources.close(limit_s)
        except ExceptionGroup as errors:
            self._stages.ended("close", began, ok=False, detail="; ".join(map(str, errors.exceptions)))
            raise
        finally:
            await self.tracing.end()
        self._stages.ended("close", began)

    async def drain(self, limits: DrainLimits) -> bool:
        """The whole way down, for servers that do not do it stage by stage."""
        self.announce()
        await self.world.sleep(limits.announce_s)
        finished = await self.finish(limits.finish_s)
        await self.close(limits.close_s)
        return finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await obey(receive, send, lambda: self.start(START_S), lambda: self.drain(drain_limits(DRAIN_S, 0.0)))
        else:
            await self.app(scope, receive, send)

    def _failing(self) -> str:
        return "; ".join(self._checks.failing())

    async def _load_settings(self) -> None:
        self.settings = await self._configuration.load()

    async def _open_resources(self) -> None:
        await self._resources.open("clients", self._hold_clients)
        for name, open_it in self._openers.items():
            await self._resources.open(name, open_it)
            self._state[name] = self._resources.values[name]
        await self._resources.open("lifespan", lambda: lifespan(self._inner, self._state))

    @asynccontextmanager
    async def _hold_clients(self) -> AsyncIterator[None]:
        if self._clients.names or self.policies.protection:
            # The first call shall not have to wait for it.
            await self.directory.start(*self._clients.names)
        yield
        self.policies.close()
        await self._clients.close()
        if "directory" in self.__dict__:
            await self.directory.aclose()

    async def _warm(self) -> None:
        for function in self._warm_ups:
            if inspect.iscoroutinefunction(function):
                await function()
            else:
                await asyncio.to_thread(function)
        for name, loop in self._loops.items():
            self._tasks.supervise(name, loop)

    async def _abandon(self, error: BaseException) -> None:
        """Undo a start-up that failed; what fails on the way is added to the error that is reported."""
        self._phase = Phase.STOPPED
        await self._tasks.cancel()
        try:
            await self._resources.close(DRAIN_S)
        except ExceptionGroup as errors:
            error.add_note(f"and then {errors}: {'; '.join(map(str, errors.exceptions))}")

    def _left(self) -> list[str]:
        requests = self.traffic.shown()
        for request in requests:
            _log.warning("over the drain limit: %s", request)
        return requests + self._tasks.unfinished()

    def _probes(self) -> dict[str, App]:
        started = frozenset({Phase.READY, Phase.UNREADY, Phase.DRAINING})
        return {
            "/livez": probes.probe(lambda: True, self.health),
            "/startupz": probes.probe(lambda: self.phase in started, self.health),
            "/readyz": probes.probe(lambda: self.ready, self.health),
            "/healthz": probes.probe(lambda: self.phase in started and self._checks.passing, self.health),
        }


def load(
    target: str, factory: bool = False, wsgi: bool = False, threads: int = THREADS, root_path: str = ""
) -> Service:
    """The Service that `module:attribute` names; any other app, ASGI or WSGI, is wrapped in one. Raises AppError with
    the last lines of the user's traceback, ConfigError."""
    found = loader.load_target(target, factory)
    if not isinstance(found, Service):
        interface = Interface.WSGI if wsgi else loader.recognized(found, target)
        found = Service(app=as_asgi3(found, interface, threads))
    found.threads = threads
    found.root_path = root_path
    return found

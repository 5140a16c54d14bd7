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
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from gapless.core.errors import AppError, GaplessError, NotReady
from gapless.core.events import Events, StageEnded
from gapless.core.lifecycle import DrainLimits, drain_limits
from gapless.core.model import Phase
from gapless.core.ports import World
from gapless.core.world import RealWorld
from gapless.observe.log import log_stage
from gapless.observe.metrics import Meter, Sample
from gapless.resilience.deadline import within
from gapless.service import checks, loader, probes
from gapless.service.asgi import App, Receive, Scope, Send, not_found
from gapless.service.identity import Identity
from gapless.service.lifespan import lifespan
from gapless.service.requests import Requests
from gapless.service.resources import Opener, Resources, opener
from gapless.service.tasks import Tasks

if TYPE_CHECKING:
    from gapless.discovery.directory import Directory
    from gapless.service.client import Client

F = TypeVar("F", bound=Callable[..., Any])
_log = logging.getLogger("gapless.kit")

DEADLINE_S = 60.0
"""The longest that a request may take here when its caller says nothing: four times what the gateway waits."""
START_S = 30.0
DRAIN_S = 30.0
"""Limits when a foreign server runs the service through its lifespan; `gapless serve` brings its own."""
STAGE_BOUNDS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """Seconds that each stage may take; none may take more than what is left of the whole start-up's limit."""

    settings_s: float = 10.0
    resources_s: float = math.inf
    warm_up_s: float = math.inf
    checks_s: float = math.inf


class Service:
    """A service around an ASGI app. As a callable it is the outer ASGI app, for servers that speak lifespan."""

    def __init__(
        self,
        name: str | None = None,
        app: App | None = None,
        *,
        settings: Callable[[], Any] | None = None,
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
        self.settings: Any = None
        self._inner = app or not_found
        self._make_settings = settings
        self._deadline_s = deadline_s
        self._limits = limits or StartLimits()
        self._directory = directory
        self._openers: dict[str, Opener] = {}
        self._warm_ups: list[Callable[[], Any]] = []
        self._loops: dict[str, Callable[[], Any]] = {}
        self._checks = checks.Checks(self.world)
        self._tasks = Tasks(self.world, self.meter)
        self._resources = Resources(self.world)
        self._clients: dict[str, Client] = {}
        self._state: dict[str, Any] = {}
        self._phase = Phase.STARTING
        self._stages = self.meter.histogram(
            "gapless_stage_duration_seconds", "Stages of start and drain", ("stage", "ok"), STAGE_BOUNDS_S
        )

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

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Work that outlives the request that began it; a drain waits for it."""
        return self._tasks.spawn(work, name)

    def client(self, name: str) -> Client:
        """The client for another service, found through discovery. One per name."""
        if name not in self._clients:
            from gapless.service.client import Client

            self._clients[name] = Client(name, directory=self.directory, world=self.world, meter=self.meter)
        return self._clients[name]

    # What is known.

    @property
    def resources(self) -> Mapping[str, Any]:
        """What the open resources yielded, by name."""
        return self._resources.values

    @cached_property
    def directory(self) -> Directory:
        """Where other services are: streamed from the control plane, when this process was started by one."""
        from gapless.discovery.directory import Directory

        return self._directory or Directory.of_control(self.identity.state, self.identity.discovery, self.world)

    @property
    def phase(self) -> Phase:
        if self._phase is Phase.READY and not self._checks.passing:
            return Phase.UNREADY
        return self._phase

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY

    def health(self) -> dict[str, Any]:
        """The JSON of the probes, from the last results (see `probes.report`)."""
        return probes.report(self.identity, self.phase, self._checks.results, self.world.time())

    def samples(self) -> list[Sample]:
        """A JSON-able snapshot of this worker's metrics (see `observe.metrics`)."""
        return self.meter.samples()

    @cached_property
    def app(self) -> Requests:
        """The ASGI app to serve HTTP with: probes, context and counting around the wrapped app."""
        info = self.meter.gauge("gapless_workers", "Workers by what they run", ("service", "release", "instance"))
        info.labels(self.name, self.identity.release, self.identity.instance).set(1)
        return Requests(
            self._protected(),
            self._probes(),
            self.identity,
            world=self.world,
            meter=self.meter,
            deadline_s=self._deadline_s,
            state=self._state,
        )

    def _protected(self) -> App:
        """The wrapped app behind the policies that gapless.yaml gives it, if it does. Raises ConfigError."""
        if not self.identity.protect:
            return self._inner
        from gapless.service.protect import Protected
        from gapless.service.protect_metrics import observe_guards
        from gapless.service.protect_rules import guards, parse

        found = guards(self.name, parse(self.identity.protect), self.world)
        observe_guards(self.meter, [guard for _, guard in found])
        return Protected(self._inner, found)

    # The life of it.

    async def start(self, limit_s: float = START_S) -> None:
        """Everything in order until ready. Raises NotReady (a limit passed, or checks do not pass) or AppError (what
        was called failed), naming the stage; what was opened until then is closed again."""
        end = self.world.now() + limit_s
        _ = self.app
        try:
            await self._stage("settings", end, self._limits.settings_s, self._load_settings)
            await self._stage("resources", end, self._limits.resources_s, self._open_resources)
            await self._stage("warm-up", end, self._limits.warm_up_s, self._warm)
            await self._stage("checks", end, self._limits.checks_s, self._checks.wait_passing)
        except BaseException as error:
            await self._abandon(error)
            raise
        for name, loop in self._checks.loops():
            self._tasks.supervise(name, loop)
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
                while self.app.in_flight or self._tasks.unfinished():
                    await self.app.wait_idle()
                    await self._tasks.wait_spawned()
            left = []
        except TimeoutError:
            left = self._left()
        await self._tasks.cancel()
        self._ended("finish", began, ok=not left, detail=", ".join(left[:20]))
        return not left

    async def close(self, limit_s: float) -> None:
        """Close the resources in reverse, each limited. Raises an ExceptionGroup at the end."""
        began = self.world.now()
        self._phase = Phase.STOPPED
        try:
            await self._resources.close(limit_s)
        except ExceptionGroup as errors:
            self._ended("close", began, ok=False, detail="; ".join(map(str, errors.exceptions)))
            raise
        self._ended("close", began)

    async def drain(self, limits: DrainLimits) -> bool:
        """The whole way down, for servers that do not do it stage by stage."""
        self.announce()
        await self.world.sleep(limits.announce_s)
        finished = await self.finish(limits.finish_s)
        await self.close(limits.close_s)
        return finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._own_lifespan(receive, send)
        else:
            await self.app(scope, receive, send)

    async def _own_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start(START_S)
        except GaplessError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.drain(drain_limits(DRAIN_S, announce_s=0.0))
        await send({"type": "lifespan.shutdown.complete"})

    async def _stage(
        self, name: str, end: float, limit_s: float, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        began = self.world.now()
        limit_s = min(limit_s, end - began)
        try:
            async with within(self.world, limit_s):
                await work()
        except TimeoutError as error:
            what = "; ".join(self._checks.failing()) if name == "checks" else f"it took more than {limit_s:.1f} s"
            self._ended(name, began, ok=False, detail=what)
            raise NotReady(f"start-up stage {name!r} did not end: {what}") from error
        except Exception as error:
            self._ended(name, began, ok=False, detail=f"{type(error).__name__}: {error}")
            raise error if isinstance(error, GaplessError) else AppError(_failure(name, error)) from error
        self._ended(name, began)

    async def _load_settings(self) -> None:
        if self._make_settings is not None:
            self.settings = self._make_settings()

    async def _open_resources(self) -> None:
        await self._resources.open("clients", self._hold_clients)
        for name, open_it in self._openers.items():
            await self._resources.open(name, open_it)
            self._state[name] = self._resources.values[name]
        await self._resources.open("lifespan", lambda: lifespan(self._inner, self._state))

    @asynccontextmanager
    async def _hold_clients(self) -> AsyncIterator[None]:
        if self._clients:
            await self.directory.start()  # the first call shall not have to wait for it
        yield
        for client in self._clients.values():
            await client.aclose()
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
        requests = [f"{e.scope.get('method', e.scope['type'])} {e.scope['path']}" for e in self.app.in_flight]
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

    def _ended(self, name: str, began: float, ok: bool = True, detail: str = "") -> None:
        event = StageEnded(name=name, took_s=self.world.now() - began, ok=ok, detail=detail)
        self._stages.labels(name, "true" if ok else "false").observe(event.took_s)
        log_stage(event)
        self.events(event)


def _failure(stage: str, error: Exception) -> str:
    return f"start-up stage {stage!r} failed:\n{loader.tail(error)}"


def load(target: str, factory: bool = False) -> Service:
    """The Service that `module:attribute` names; any other ASGI app is wrapped in one. Raises AppError with the last
    lines of the user's traceback."""
    found = loader.load_target(target, factory)
    return found if isinstance(found, Service) else Service(app=found)

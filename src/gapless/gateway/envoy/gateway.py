"""Envoy as a data plane: one process, one xDS server, one access log, composed."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gapless.core.errors import GaplessError, PortTaken, TrafficRefused
from gapless.core.events import Event, GatewayRefused, GatewayStarted
from gapless.core.model import Address, RouteTable, Window
from gapless.core.ports import World
from gapless.gateway.envoy.accesslog import AccessLog
from gapless.gateway.envoy.bootstrap import default_workers
from gapless.gateway.envoy.process import EnvoyProcess, find_binary
from gapless.gateway.envoy.resources import Resources, resources, stages
from gapless.gateway.envoy.words import UNSAID, logged

if TYPE_CHECKING:
    from gapless.gateway.envoy.protos import Messages
    from gapless.gateway.envoy.xds import XdsServer

CONNECT_S = 10.0
"""Envoy starts in 0.2 s; an adopted one reconnects within 1 s. Machines are busy."""
ACKNOWLEDGE_S = 15.0
DRAIN_S = 30.0

LOG_LINES = 10_000
"""Far enough back to find the end of what Envoy says about a table of any size."""

_TAKEN = "address already in use"
"""In Envoy's words, when it cannot bind the listener."""


class EnvoyGateway:
    """Implements `core.ports.Traffic` and `core.ports.Metrics`.

    `listen` is the public address, `state` the state directory: xds.sock, envoy/ and logs/envoy.log are below it.
    """

    def __init__(
        self,
        listen: Address,
        state: Path,
        world: World,
        binary: Path | None = None,
        events: Callable[[Event], None] = lambda event: None,
        *,
        workers: int | None = None,
        acknowledge_s: float = ACKNOWLEDGE_S,
    ) -> None:
        self._listen = listen
        self._state = state.absolute()
        self._world = world
        self._binary = binary
        self._events = events
        self._workers = workers
        self._acknowledge_s = acknowledge_s
        self._log = AccessLog(world)
        self._applied: Resources | None = None
        self._turn = asyncio.Lock()
        self._messages: Messages | None = None
        self._server: XdsServer | None = None
        self._process: EnvoyProcess | None = None

    @property
    def pid(self) -> int:
        """Envoy's; 0 before `start`."""
        return self._process.pid if self._process else 0

    @property
    def restarts(self) -> int:
        """How often Envoy has died and was started again under this control plane."""
        return self._process.restarts if self._process else 0

    @property
    def settled(self) -> bool:
        """Envoy runs and obeys the newest table; one that has just been restarted does not yet."""
        return self._server is not None and self._server.settled

    @property
    def adopted(self) -> bool:
        """Whether `start` found an Envoy that an earlier control plane had left running."""
        return self._process is not None and self._process.adopted

    async def start(self) -> None:
        """Adopt Envoy, or start it and wait until it has connected. It accepts requests once a table was applied.

        Raises GatewayMissing, PortTaken, GaplessError with Envoy's last words; nothing is left running then.
        """
        from gapless.gateway.envoy.protos import load_messages
        from gapless.gateway.envoy.xds import XdsServer

        binary = find_binary(self._binary)
        self._messages = load_messages()
        self._state.mkdir(parents=True, exist_ok=True)
        self._process = self._new_process(binary)
        self._server = XdsServer(self._messages, self._state / "xds.sock", self._refused, self._log.take)
        await self._server.start()
        try:
            await self._open(self._process, self._server)
        except BaseException:
            await self.stop(drain_s=0)
            raise

    async def apply(self, table: RouteTable) -> int:
        """`core.ports.Traffic.apply`. Raises TrafficRefused in Envoy's words (the table before stays in force),
        PortTaken when Envoy cannot bind its address, GatewayMissing when no Envoy is connected within the limit (the
        table then waits for the next one)."""
        async with self._turn:
            wanted = resources(table, self._listen)
            for stage in stages(self._applied, wanted):
                await self._publish(stage)
            return table.version

    async def window(self, service: str, release: str, since_at: float, until_at: float) -> Window:
        """`core.ports.Metrics.window`; complete for every `until_at` up to a second ago."""
        return await self._log.window(service, release, since_at, until_at)

    async def adopt(self) -> None:
        """Take charge of the Envoy that an earlier control plane left, if there is one, only to `stop` it."""
        self._process = self._new_process(self._binary or Path())
        self._process.adopt()

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Let requests finish, up to the limit; then end Envoy and the server. Nothing is left behind but the log, also
        when it is cancelled, which ends Envoy at once."""
        try:
            if self._process is not None:
                await self._process.stop(drain_s)
        finally:
            if self._server is not None:
                await self._server.stop()
            (self._state / "xds.sock").unlink(missing_ok=True)

    async def detach(self) -> None:
        """Leave Envoy running with what it was told last, for the control plane that comes next."""
        if self._process is not None:
            await self._process.detach()
        if self._server is not None:
            await self._server.stop()

    def _new_process(self, binary: Path) -> EnvoyProcess:
        workers = self._workers or default_workers()
        return EnvoyProcess(binary, self._state, workers, self._world, self._started)

    async def _open(self, process: EnvoyProcess, server: XdsServer) -> None:
        if process.adopt():
            await process.start()
            return  # it serves; it reconnects by itself, and `apply` waits for that
        await self._check_address()
        await process.start()
        connected = asyncio.create_task(server.until(lambda: server.connected > 0))
        ended = asyncio.create_task(process.ended())
        try:
            await asyncio.wait((connected, ended), timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            if not connected.done():
                raise process.failure(
                    "has ended at once" if ended.done() else f"did not connect within {CONNECT_S:g} s"
                )
        finally:
            connected.cancel()
            ended.cancel()
            await asyncio.gather(connected, ended, return_exceptions=True)

    async def _publish(self, stage: Resources) -> None:
        from gapless.gateway.envoy.xds import Refused

        assert self._messages is not None, "start() comes first"
        assert self._server is not None
        try:
            await self._server.publish(self._messages.snapshot(stage), self._acknowledge_s)
        except Refused as refused:
            before = self._applied
            self._server.retract(self._messages.snapshot(before) if before else None)
            raise self._explained(refused.what) from None
        except BaseException:
            self._applied = stage  # not refused: it stays the truth for whoever answers or connects later
            raise
        self._applied = stage

    def _explained(self, text: str) -> GaplessError:
        if _TAKEN in text.lower():
            return self._taken()
        if text == UNSAID and self._process is not None:
            text = logged(self._process.tail(LOG_LINES)) or text
        return TrafficRefused(f"Envoy refuses the routes: {text}")

    async def _check_address(self) -> None:
        try:
            probe = await asyncio.start_server(lambda reader, writer: None, self._listen.host, self._listen.port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise self._taken() from None
            raise PortTaken(
                f"the gateway cannot listen on {self._listen}: {error.strerror}", "Choose another gateway.listen."
            ) from error
        probe.close()
        await probe.wait_closed()

    def _taken(self) -> PortTaken:
        return PortTaken(
            f"{self._listen}, where the gateway is to listen, is in use by another process",
            f"Find it with `ss -ltnp 'sport = :{self._listen.port}'` and stop it, or change gateway.listen.",
        )

    def _started(self, pid: int, restarts: int) -> None:
        self._events(GatewayStarted(pid=pid, restarts=restarts, adopted=self.adopted and not restarts))

    def _refused(self, text: str) -> None:
        if not self._turn.locked():  # whoever waits in `apply` hears it by the exception
            self._events(GatewayRefused(text=text))

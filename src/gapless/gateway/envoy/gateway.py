"""Envoy as a data plane: one process, one xDS server, one access log, composed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapless.core.errors import GaplessError, GatewayMissing, PortTaken, TrafficRefused
from gapless.core.events import Event, GatewayRefused, GatewayStarted
from gapless.core.model import Address, Door, Entrance, RouteTable, Window
from gapless.core.ports import World
from gapless.gateway.envoy.accesslog import AccessLog
from gapless.gateway.envoy.blame import blamed
from gapless.gateway.envoy.bootstrap import default_workers
from gapless.gateway.envoy.certificates import Certificates
from gapless.gateway.envoy.delta import Snapshot
from gapless.gateway.envoy.listener import listeners
from gapless.gateway.envoy.nodes import Place
from gapless.gateway.envoy.parts import Parts
from gapless.gateway.envoy.process import EnvoyProcess, find_binary
from gapless.gateway.envoy.resources import LISTENER, LOAD, Resources, resources, stages
from gapless.gateway.envoy.words import UNSAID, logged
from gapless.observe.metrics import Sample
from gapless.observe.trace.spans import Span

if TYPE_CHECKING:
    from gapless.gateway.envoy.protos import Messages
    from gapless.gateway.envoy.xds import Link, XdsServer

_log = logging.getLogger("gapless.gateway")

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

    `entrance` is where it listens and how; below `state`, the state directory, are xds.sock, envoy/ and logs/envoy.log.
    """

    def __init__(
        self,
        entrance: Entrance,
        state: Path,
        world: World,
        binary: Path | None = None,
        events: Callable[[Event], None] = lambda event: None,
        *,
        workers: int | None = None,
        acknowledge_s: float = ACKNOWLEDGE_S,
        door: Door | None = None,
    ) -> None:
        """`door`: where gateways elsewhere are served as well."""
        self._door = door
        self._stage: Resources | None = None
        self._joining: asyncio.Task[None] | None = None
        self._entrance = entrance
        self._state = state.absolute()
        self._world = world
        self._binary = binary
        self._events = events
        self._workers = workers
        self._acknowledge_s = acknowledge_s
        self._log = AccessLog(world)
        self._certificates = Certificates(entrance.certificates, world, self._certified, events)
        self._looking: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._table: RouteTable | None = None
        self._parts = Parts()
        self._applied: Resources | None = None
        self._obeyed: RouteTable | None = None
        self._turn = asyncio.Lock()
        self._messages: Messages | None = None
        self._server: XdsServer | None = None
        self._process: EnvoyProcess | None = None

    @property
    def pid(self) -> int:
        """Envoy's; 0 before `start`."""
        return self._process.pid if self._process else 0

    def spans(self) -> list[Span]:
        """See `control.gateway.Gateway`."""
        return self._log.kept.take()

    def samples(self) -> list[Sample]:
        """Requests, errors and durations, by service and release."""
        return self._log.meter.samples()

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

        Raises CertificateRefused, GatewayMissing, PortTaken, GaplessError with Envoy's last words; nothing is left
        running then, but for an Envoy of before when the certificates are refused.
        """
        from gapless.gateway.envoy.protos import load_messages
        from gapless.gateway.envoy.xds import XdsServer

        binary = find_binary(self._binary)
        self._certificates.read()
        self._messages = load_messages()
        self._state.mkdir(parents=True, exist_ok=True)
        self._process = self._new_process(binary)
        self._server = XdsServer(
            self._messages,
            self._state / "xds.sock",
            self._refused,
            self._log.take,
            self._world.time,
            self._door,
            self._varied,
            self._joined,
        )
        await self._server.start()
        try:
            await self._open(self._process, self._server)
        except BaseException:
            await self.stop(drain_s=0)
            raise
        if self._entrance.certificates:
            self._looking = asyncio.create_task(self._certificates.watch(), name="certificates")

    async def apply(self, table: RouteTable) -> int:
        """`core.ports.Traffic.apply`. Raises TrafficRefused in Envoy's words (the table before stays in force),
        PortTaken when Envoy cannot bind its address, GatewayMissing when no Envoy is connected within the limit (the
        table then waits for the next one)."""
        async with self._turn:
            self._table = table
            zones = {place.zone for place in self._server.places} if self._server else ()
            wanted = resources(table, self._entrance, self._certificates.pairs, self._parts, zones)
            try:
                for stage in stages(self._applied, wanted):
                    await self._publish(stage)
                self._obeyed = table
            finally:
                self._catch_up()
            return table.version

    async def renew(self, binary: Path | None = None) -> None:
        """Hot restart of Envoy, with another binary if one is given: no connection is refused, no request cut off.
        Raises Busy, GatewayMissing, GaplessError with the new one's words; then the old one serves on."""
        if self._process is None:
            raise GatewayMissing("the gateway does not run")
        await self._process.renew(binary)

    async def details(self) -> dict[str, Any]:
        """What `gapless gateway status` shows, as plain data."""
        process, server = self._process, self._server
        if process is None or server is None:
            return {"running": False}
        version, ejected = "", list[dict[str, str]]()
        with contextlib.suppress(GaplessError):
            version, ejected = await process.version(), await process.ejected()
        return {
            "running": process.running,
            "pid": process.pid,
            "epoch": process.epoch,
            "envoy": process.binary,
            "version": version,
            "restarts": process.restarts,
            "leaving": process.leaving,
            "connected": server.connected,
            "lagging": server.lagging,
            "settled": server.settled,
            "gateways": [_shown(link, self._listen) for link in server.links],
            "ejected": ejected,
        }

    def _catch_up(self) -> None:
        """Once, when there is a table: finish what a killed control plane had begun, and take a new binary."""
        if self._catching_up is None and self.adopted:
            self._catching_up = asyncio.create_task(self._succession(), name="gateway succession")

    async def _succession(self) -> None:
        assert self._process is not None
        await self._process.settle_succession()
        if not self._process.outdated:
            return
        try:
            await self._process.renew()
        except GaplessError as error:
            _log.warning("Envoy could not be replaced by what is configured now: %s", error)
            self._events(GatewayRefused(text=f"another Envoy is configured, and could not take over: {error.what}"))

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
        if self._joining is not None:
            self._joining.cancel()
        try:
            if self._process is not None:
                await self._process.stop(drain_s)
        finally:
            if self._server is not None:
                await self._server.stop()
            (self._state / "xds.sock").unlink(missing_ok=True)

    async def detach(self) -> None:
        """Leave Envoy running with what it was told last, for the control plane that comes next."""
        await self._look_away()
        if self._process is not None:
            await self._process.detach()
        if self._server is not None:
            await self._server.stop()

    def _varied(self, place: Place, truth: Snapshot) -> Snapshot:
        """What a gateway elsewhere is told: its own listener, and who is near it first."""
        assert self._messages is not None
        entrance = replace(self._entrance, listen=place.listen, redirect=None)
        token = self._door.token if self._door else ""
        listener = self._messages.items(LISTENER, listeners(entrance, token), variant=str(place.listen))
        loads = self._stage.zoned.get(place.zone) if self._stage else None
        near = {} if loads is None else {LOAD: self._messages.items(LOAD, loads, variant=place.zone)}
        return Snapshot({**truth.by_type, LISTENER: listener, **near})

    def _joined(self, place: Place) -> None:
        """A gateway has come; the first one of a zone needs load assignments of its own."""
        stage = self._stage
        known = stage is None or place.zone == self._entrance.zone or place.zone in stage.zoned
        if not known and (self._joining is None or self._joining.done()):
            self._joining = asyncio.create_task(self._tell_anew(), name="gateway of another zone")

    async def _tell_anew(self) -> None:
        try:
            await self._certified()
        except GaplessError as error:
            _log.warning("a gateway of another zone asks whoever is near the others: %s", error)

    async def _certified(self) -> None:
        """The certificates have changed. Raises what `apply` raises."""
        if self._table is not None:
            await self.apply(self._table)

    async def _look_away(self) -> None:
        tasks = [task for task in (self._looking, self._catching_up, self._joining) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._looking = None

    @property
    def _listen(self) -> Address:
        return self._entrance.listen

    def _new_process(self, binary: Path) -> EnvoyProcess:
        workers = self._workers or default_workers()
        entrance = self._entrance
        ports = [address.port for address in (entrance.listen, entrance.redirect) if address]
        return EnvoyProcess(binary, self._state, workers, self._world, self._started, ports)

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
                raise process.launcher.failure(
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
        assert self._table is not None
        self._stage = stage
        try:
            await self._server.publish(self._messages.snapshot(stage), self._acknowledge_s, self._table.version)
        except Refused as refused:
            before = self._stage = self._applied
            version = self._obeyed.version if self._obeyed else 0
            self._server.retract(self._messages.snapshot(before) if before else None, version)
            raise self._explained(refused.what, refused.gateway) from None
        except BaseException:
            self._applied = stage  # not refused: it stays the truth for whoever answers or connects later
            raise
        self._applied = stage

    def _explained(self, text: str, gateway: str) -> GaplessError:
        if gateway:
            about = blamed(text, self._table, self._obeyed) if self._table else ""
            return TrafficRefused(f"gateway {gateway} refuses the routes: {text}{about}")
        if _TAKEN in text.lower():
            return self._taken()
        if text == UNSAID and self._process is not None:
            text = logged(self._process.launcher.tail(LOG_LINES)) or text
        about = blamed(text, self._table, self._obeyed) if self._table else ""
        return TrafficRefused(f"Envoy refuses the routes: {text}{about}")

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


def _shown(link: Link, listen: Address) -> dict[str, Any]:
    """A connected Envoy, as plain data."""
    place = link.node.place
    return {
        "node": link.node.name,
        "address": str(place.listen if place else listen),
        "zone": place.zone if place else "",
        "envoy": link.node.version,
        "since": datetime.fromtimestamp(link.since_at, UTC).isoformat(timespec="seconds"),
        "acknowledged": link.acknowledged,
        "lagging": link.lagging,
        "refused": link.refused,
    }

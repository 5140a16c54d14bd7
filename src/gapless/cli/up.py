"""`gapless up`: run a system: gateway, instances and the control plane, in the foreground."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Store, at
from gapless.cli.output import Json
from gapless.cli.stop import Stop

if TYPE_CHECKING:
    from gapless.config import Console, System
    from gapless.control.plane import ControlPlane
    from gapless.core.events import Event
    from gapless.core.model import Address


OFF = "off"


def up_command(
    listen: Annotated[str, typer.Option("--listen", help="Public address instead of the file's.")] = "",
    console: Annotated[
        str, typer.Option("--console", help="Address of the web console instead of the file's; `off`: none.")
    ] = "",
    store: Store = "",
    move: Annotated[
        bool, typer.Option("--move", help="Run it here although it lived on another machine, which is gone.")
    ] = False,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Run the system that gapless.yaml describes, until Ctrl-C, which drains and ends all of it (twice: at once).

    Instances and gateway that an earlier control plane left running are taken over as they are. On a shared store
    (etcd://, consul://) several of these stand by for each other: Ctrl-C hands over while another one is there.

    Example: gapless up --file shop/gapless.yaml
    """
    asyncio.run(_up(lambda: _system(file, state, listen, store, console), _Show(json), move))


def _system(file: Path, state: Path | None, listen: str, store: str, console: str) -> System:
    from gapless.config import load

    system = at(load(file), state, store)
    if listen:
        system = replace(system, gateway=replace(system.gateway, listen=_address("--listen", listen)))
    return replace(system, console=_console(system, console)) if console else system


def _console(system: System, text: str) -> Console | None:
    from gapless.config import Console

    if text == OFF:
        return None
    return replace(system.console or Console(), listen=_address("--console", text))


def _address(option: str, text: str) -> Address:
    from gapless.config.settings.fields import address
    from gapless.core.errors import ConfigError

    try:
        return address(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text}: {error}", f"Write for instance {option} 127.0.0.1:8080.") from error


async def _up(read: Callable[[], System], show: _Show, move: bool) -> None:
    from gapless.store import shared

    stop = Stop()
    stop.install()
    if shared((system := read()).store):
        await _take_turns(read, system.store, show, stop, move)
    else:
        await _alone(system, show, stop)
    show.stopped()


async def _alone(system: System, show: _Show, stop: Stop) -> None:
    from gapless.cli.control_log import control_log, log_event
    from gapless.control.compose import compose
    from gapless.core.events import Events

    plane = await compose(system, Events([show.event, log_event]))
    async with control_log(system.state), _listening(plane, stop.ask):
        try:
            await plane.start()
            await _run(plane, show, stop)
        finally:
            show.stopping()
            await plane.stop(at_once=stop.at_once)


@asynccontextmanager
async def _listening(plane: ControlPlane, stop: Callable[[], None]) -> AsyncIterator[None]:
    """What a control plane that leads is asked by: the verbs, the console, and, where the system has a registry,
    everybody."""
    from gapless.api.listen import listening
    from gapless.api.rest import rest_app
    from gapless.cli.system_console import system_console
    from gapless.cli.system_metrics import system_metrics
    from gapless.cli.system_registry import system_registry

    async with (
        system_registry(plane),
        system_metrics(plane),
        system_console(plane),
        listening(rest_app(plane, stop), plane.system.state / "control.sock"),
    ):
        yield


async def _take_turns(read: Callable[[], System], where: str, show: _Show, stop: Stop, move: bool) -> None:
    from gapless.api.listen import listening
    from gapless.api.standby import standby_app
    from gapless.cli.control_log import control_log
    from gapless.cli.turns import Roles, Turns, standby_socket
    from gapless.core.world import RealWorld
    from gapless.store import open_store

    world = RealWorld()
    state = read().state
    roles = Roles(
        leading=lambda plane: _listening(plane, stop.ask_down),
        standing_by=lambda standby: listening(standby_app(standby), standby_socket(state, os.getpid())),
        serve=lambda plane: _run(plane, show, stop),
    )
    async with control_log(state):
        await Turns(read, await open_store(where, world), world, roles, stop, show, move=move).run()


async def _run(plane: ControlPlane, show: _Show, stop: Stop) -> None:
    stopped = asyncio.create_task(stop.asked.wait())
    ready = asyncio.create_task(plane.wait_ready())
    try:
        await asyncio.wait({stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not stopped.done():
            show.ready(plane.status())
        await stopped
    finally:
        ready.cancel()


class _Show:
    """What people (lines) or programs (JSON lines) are told."""

    def __init__(self, json: bool) -> None:
        self._json = json

    def event(self, event: Event) -> None:
        text = describe(event)
        if text:
            self._line({"event": type(event).__name__, "text": text}, text)

    def ready(self, status: dict[str, Any]) -> None:
        if self._json:
            self._line({"ready": True, "listen": status["listen"], "pid": os.getpid(), "status": status}, "")
            return
        for text in listening_lines(status):
            self._line({}, text)
        self._line({}, "ready")

    def standing_by(self, leader: str) -> None:
        self._line({"standby": True, "leader": leader}, f"standing by: {leader} leads")

    def leading(self) -> None:
        self._line({"leading": True, "pid": os.getpid()}, "leading")

    def deposed(self, reason: str) -> None:
        text = f"no longer leading ({reason}); gateway and instances go on"
        self._line({"leading": False, "reason": reason}, text)

    def handing_over(self, to: str) -> None:
        self._line({"handing_over": to}, f"handing over to {to}; gateway and instances go on")

    def stopping(self) -> None:
        self._line({"stopping": True}, "stopping: draining the gateway, then the instances (again Ctrl-C: at once)")

    def stopped(self) -> None:
        self._line({"stopped": True}, "stopped")

    def _line(self, data: dict[str, Any], text: str) -> None:
        import json

        from gapless.cli.output import line

        line(json.dumps(data) if self._json else text)


def listening_lines(status: dict[str, Any]) -> list[str]:
    """What listens where."""
    lines = [f"gateway    {status['scheme']}://{status['listen']}  (Envoy, pid {status['gateway']['pid']})"]
    for name, service in status["services"].items():
        lines += [
            f"{name:<10} http://{i['address']}  release {i['release']}, {i['id']}, pid {i['pid']}"
            for i in service["instances"]
            if i["phase"] in ("ready", "unready")
        ]
    if registry := status["registry"]:
        names = f"; DNS {registry['dns']} (.{registry['domain']})" if registry["dns"] else ""
        lines.append(f"registry   http://{registry['http']}  (Consul's API){names}")
    if status["console"]:
        lines.append(f"console    {status['console']}")
    return [*lines, f"control    {Path(status['state']) / 'control.sock'}"]


def _head(detail: str) -> str:
    """The reason without the log."""
    return detail.partition("\n")[0]


def describe(event: Event) -> str:
    """An event as a line for people; nothing for those that only machines want."""
    from gapless.core import events
    from gapless.core.model import Phase

    match event:
        case events.InstanceChanged(instance=i) if i.phase is Phase.READY:
            return f"{i.service}: {i.id} (release {i.release}) is ready at {i.address}"
        case events.InstanceChanged(instance=i) if i.failed and i.phase is Phase.STOPPED:
            return (
                f"{i.service}: {i.id} (release {i.release}) failed: {i.detail if not i.was_ready else _head(i.detail)}"
            )
        case events.InstanceChanged(instance=i) if i.phase in (Phase.UNREADY, Phase.DRAINING):
            return f"{i.service}: {i.id} (release {i.release}) is {i.phase}: {_head(i.detail)}"
        case events.ChangeRecorded(change=change):
            return f"change {change.number} by {change.who}: {change.what}{f' ({change.why})' if change.why else ''}"
    return _describe_gateway(event)


def _describe_gateway(event: Event) -> str:
    from gapless.core import events

    match event:
        case events.CertificatesChanged(text=text):
            return f"gateway: {text}"
        case events.GatewayRefused(text=text):
            return f"gateway: Envoy refused the new routes and goes on with the old ones: {text}"
        case events.GatewayStarted(pid=pid, adopted=True):
            return f"gateway: Envoy is still running, pid {pid}"
        case events.GatewayStarted(pid=pid, restarts=restarts):
            return f"gateway: Envoy {'started' if not restarts else f'restarted ({restarts})'}, pid {pid}"
    return ""

"""`gapless up`: run a system: gateway, instances and the control plane, in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.config import System
    from gapless.control.plane import ControlPlane
    from gapless.core.events import Event


def up_command(
    listen: Annotated[str, typer.Option("--listen", help="Public address instead of the file's.")] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Run the system that gapless.yaml describes, until Ctrl-C, which drains and ends all of it (twice: at once).

    Instances and gateway that an earlier control plane left running are taken over as they are.

    Example: gapless up --file shop/gapless.yaml
    """
    from gapless.config import load
    from gapless.config.settings import address

    system = load(file)
    if state:
        system = replace(system, state=state.absolute())
    if listen:
        system = replace(system, gateway=replace(system.gateway, listen=_address(listen, address)))
    asyncio.run(_up(system, _Show(json)))


def _address(text: str, read: Callable[[str], Any]) -> Any:
    from gapless.core.errors import ConfigError

    try:
        return read(text)
    except ValueError as error:
        raise ConfigError(f"--listen {text}: {error}", "Write for instance --listen 127.0.0.1:8080.") from error


async def _up(system: System, show: _Show) -> None:
    from gapless.api.listen import listening
    from gapless.api.rest import rest_app
    from gapless.control.compose import compose
    from gapless.core.events import Events

    stop = _Stop()
    stop.install()
    plane = await compose(system, Events([show.event]))
    async with listening(rest_app(plane, stop.ask), system.state / "control.sock"):
        try:
            await plane.start()
            await _run(plane, show, stop)
        finally:
            show.stopping()
            await plane.stop(at_once=stop.at_once)
    show.stopped()


async def _run(plane: ControlPlane, show: _Show, stop: _Stop) -> None:
    stopped = asyncio.create_task(stop.asked.wait())
    ready = asyncio.create_task(plane.wait_ready())
    try:
        await asyncio.wait({stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not stopped.done():
            show.ready(plane.status())
        await stopped
    finally:
        ready.cancel()


class _Stop:
    """The wish to end: the first one drains, the second one does not wait. A terminal that goes away wishes it, too."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._times = 0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.ask)

    def ask(self) -> None:
        self._times += 1
        self.asked.set()

    def at_once(self) -> bool:
        return self._times > 1


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
    lines = [f"gateway    http://{status['listen']}  (Envoy, pid {status['gateway']['pid']})"]
    for name, service in status["services"].items():
        lines += [
            f"{name:<10} http://{i['address']}  release {i['release']}, {i['id']}, pid {i['pid']}"
            for i in service["instances"]
            if i["phase"] in ("ready", "unready")
        ]
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
        case events.GatewayRefused(text=text):
            return f"gateway: Envoy refused the new routes and goes on with the old ones: {text}"
        case events.GatewayStarted(pid=pid, adopted=True):
            return f"gateway: Envoy is still running, pid {pid}"
        case events.GatewayStarted(pid=pid, restarts=restarts):
            return f"gateway: Envoy {'started' if not restarts else f'restarted ({restarts})'}, pid {pid}"
    return ""

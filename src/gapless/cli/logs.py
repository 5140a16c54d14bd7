"""`gapless logs`: what the instances wrote, also while no control plane is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.fleet.logs import Logs


def logs_command(
    service: Annotated[str, typer.Argument(help="A service or an instance; default: all.")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on as lines are written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Lines of the past, for each instance.", min=0)] = 20,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show the logs of a service's instances, each line behind the name of its instance.

    Example: gapless logs orders --follow
    """
    from gapless.cli.client import state_of
    from gapless.core.errors import UnknownName
    from gapless.fleet.logs import Logs

    logs = Logs(state_of(state, file) / "logs")

    def names() -> list[str]:
        return [name for name in logs.names() if not service or name == service or name.startswith(f"{service}-")]

    if not names():
        raise UnknownName(f"there is no log of {service or 'any instance'}", "See `gapless status` for the names.")
    for name in names():
        for text in logs.tail(name, lines).splitlines():
            _show(name, text, json)
    if follow:
        asyncio.run(_follow(logs, names, json))


async def _follow(logs: Logs, names: Callable[[], list[str]], json: bool) -> None:
    from gapless.core.world import RealWorld

    async for line in logs.follow(names, RealWorld()):
        _show(line.instance, line.text, json)


def _show(name: str, text: str, json: bool) -> None:
    import json as json_lib

    from gapless.cli.output import line

    line(json_lib.dumps({"instance": name, "line": text}) if json else f"{name} | {text}")

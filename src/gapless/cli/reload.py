"""`gapless reload`: have a running server load its code anew."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

LIMIT_S = 600.0
"""The server has its own limits; this one only ends the wait for a server that has been stopped (SIGSTOP)."""


def reload_command(
    service: Annotated[
        str, typer.Argument(help="A service of `gapless up`; none for a server in this directory.")
    ] = "",
    admin: Annotated[str, typer.Option(help="unix:PATH of the server's admin socket.")] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Start new workers with the code as it is now; the old ones leave when the new ones serve.

    New code that crashes, hangs or never becomes ready is refused with its last lines, and the old code goes on.

    Exit status: 0 the new code serves, 7 it was refused, 8 another reload is under way, 9 no server was found.

    Example: gapless reload
    """
    from gapless.cli.output import emit

    if service:
        from gapless.cli.client import ControlClient, state_of

        told = ControlClient(state_of(state, file)).post(f"/v1/services/{service}/reload")
        emit(told if json else told["reloaded"], json)
        return
    done = reload_server(admin)
    emit(done if json else shown(done), json)


def reload_server(admin: str) -> dict[str, Any]:
    """Reload the server behind an admin socket ("" for the default); what it answered. Raises ReloadRefused, Busy,
    UnknownName."""
    from gapless.core.errors import Busy, GaplessError, ReloadRefused
    from gapless.server.ask import ask
    from gapless.server.serve import ADMIN

    said = ask(admin.removeprefix("unix:") or ADMIN, "POST", "/reload", LIMIT_S)
    if said.status == 200:
        answer: dict[str, Any] = said.body
        return answer
    text = "\n".join([said.body.get("error", ""), *said.body.get("log", [])])
    kind = {409: Busy, 422: ReloadRefused}.get(said.status, GaplessError)
    raise kind(text, said.body.get("remedy", ""))


def shown(done: dict[str, Any]) -> str:
    """One line about a reload for people."""
    stages = ", ".join(f"{stage['name']} {stage['took_s'] * 1000:.0f} ms" for stage in done["stages"])
    pids = ", ".join(map(str, done["workers"]))
    return f"Generation {done['generation']} serves ({stages}); workers {pids}"

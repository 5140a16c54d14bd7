"""`gapless reload`: have a running server load its code anew."""

from __future__ import annotations

from collections.abc import Callable
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

    New code that crashes, hangs or never becomes ready is refused with its last lines, and the old code goes on; or
    comes back, where `gapless serve --bake` has it wait for a while. Each stage is shown when it has ended.

    Exit status: 0 the new code serves, 7 it was refused, 8 another reload is under way, 9 no server was found.

    Example: gapless reload
    """
    from gapless.cli.output import emit

    if service:
        from gapless.cli.client import ControlClient, state_of

        told = ControlClient(state_of(state, file)).post(f"/v1/services/{service}/reload")
        emit(told if json else told["reloaded"], json)
        return
    done = reload_server(admin, print_stage if not json else lambda stage: None)
    emit(done if json else shown(done), json)


def reload_server(admin: str, told: Callable[[dict[str, Any]], None] = lambda stage: None) -> dict[str, Any]:
    """Reload the server behind an admin socket ("" for the default); what it answered. `told` hears of each stage.
    Raises ReloadRefused, Busy, UnknownName."""
    from gapless.server.admin.ask import ask_lines
    from gapless.server.serve import ADMIN

    path, generation = admin.removeprefix("unix:") or ADMIN, 0
    for said in ask_lines(path, "POST", "/reload?follow", LIMIT_S):
        if "status" in said:
            return answered(said)
        generation = said["generation"]
        told(said)
    return outlived(path, generation)


def outlived(path: str, generation: int) -> dict[str, Any]:
    """What came of a reload whose master was killed: its successor has gone on with it. Raises ReloadRefused,
    UnknownName."""
    from gapless.core.errors import ReloadRefused
    from gapless.server.admin.ask import settled

    status = settled(path, LIMIT_S)
    if status["generation"] != generation:
        raise ReloadRefused(f"generation {generation} was refused", "The server's log says why.")
    pids = [worker["pid"] for worker in status["workers"] if worker["phase"] == "serving"]
    return {"generation": generation, "before": 0, "stages": [], "workers": pids}


def answered(said: dict[str, Any]) -> dict[str, Any]:
    """What a server said at last, without its status; or as the error that it means."""
    from gapless.core.errors import Busy, GaplessError, ReloadRefused

    status = said.pop("status")
    if status == 200:
        return said
    text = "\n".join([said.get("error", ""), *said.get("log", [])])
    kind = {409: Busy, 422: ReloadRefused}.get(status, GaplessError)
    raise kind(text, said.get("remedy", ""))


def print_stage(stage: dict[str, Any]) -> None:
    """One line for people, at once."""
    took = f" {stage['took_s'] * 1000:7.0f} ms" if stage["took_s"] else ""
    typer.echo(f"{stage['stage']:10}{took}")


def shown(done: dict[str, Any]) -> str:
    """One line about a reload for people."""
    after = f" after {sum(stage['took_s'] for stage in done['stages']):.2f} s" if done["stages"] else ""
    return f"Generation {done['generation']} serves{after}; workers {', '.join(map(str, done['workers']))}"

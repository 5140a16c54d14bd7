"""Following a staged change of configuration to its end, also over restarts of the control plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from gapless.cli.client import ControlClient
from gapless.cli.output import emit, line, note
from gapless.cli.watch import AGAIN_EVERY_S, AWAY_LIMIT_S
from gapless.core.errors import ControlUnreachable, RolledBack
from gapless.core.world import RealWorld


def watch_stage(client: ControlClient, stage: dict[str, Any], json: bool) -> None:
    """Show each move of a stage until its end. Raises RolledBack when it ends so (as JSON: the exit status alone)."""
    last, shown = stage, ""
    for last in _follow(client, stage):
        text = describe(last)
        if not json and text != shown:
            line(text)
        shown = text
    if json:
        emit(last, json)
    if last["state"] == "rolled back":
        if json:
            raise typer.Exit(RolledBack.exit_code)
        raise RolledBack(
            f"revision {last['number']} of {last['service']}'s configuration was rolled back: {last['reason']}",
            f"All instances have revision {last['before']}; correct the value and set it again.",
        )


def _follow(client: ControlClient, stage: dict[str, Any]) -> Iterator[dict[str, Any]]:
    world, path = RealWorld(), f"/v1/services/{stage['service']}/config/stage"
    seen_at, away = world.now(), False
    while True:
        try:
            now = client.get(path)
            seen_at, away = world.now(), False
            yield now
            if now["ended_at"] or now["number"] != stage["number"]:
                return
        except ControlUnreachable:
            if world.now() - seen_at > AWAY_LIMIT_S:
                raise
            if not away:
                note("the control plane is away; the stage goes on when it is back")
            away = True
        world.pause(AGAIN_EVERY_S)


def describe(stage: dict[str, Any]) -> str:
    """One line for people."""
    head = f"{stage['service']}, revision {stage['number']}: "
    if stage["ended_at"]:
        return f"{head}{stage['state']}: {stage['reason']}"
    taken = "taken by" if stage["applied_at"] else "goes to"
    return f"{head}{taken} {'all instances' if stage['state'] == 'all' else ', '.join(stage['members'])}"

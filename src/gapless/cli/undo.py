"""`gapless undo`: take a change back by its number."""

from __future__ import annotations

from typing import Annotated

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json


def undo_command(
    number: Annotated[int, typer.Argument(min=1, help="The change's number in `gapless changes`.")],
    why: Why = "",
    ticket: Ticket = "",
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the rollout that it takes.")] = False,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Take a change back by the verb that does the opposite: a rollout when code moves, the usual checks when it is
    configuration. Refuses when something later rests on it, and says what. It is itself a change that can be undone.

    Example: gapless undo 42 --why "carts are empty since then"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, note
    from gapless.cli.watch import watch_rollout
    from gapless.core.errors import RolledBack

    client = ControlClient(state_of(state, file))
    undone = client.post(f"/v1/changes/{number}/undo", {"why": why, "ticket": ticket})
    change, rollout = undone["change"], undone["rollout"]
    if rollout is None or detach or json:
        done = f"change {number} was already undone by" if undone["already"] else f"change {number} is undone by"
        emit(undone if json else f"{done} change {change['number']}: {change['what']}", json)
        return
    note(f"change {number} is being undone by change {change['number']}: {change['what']}")
    try:
        watch_rollout(client, rollout, json=False, detach=False)
    except RolledBack:
        if rollout["winner"] != rollout["before"]:
            raise  # a rollout of its own, back to the release before, that was itself rolled back

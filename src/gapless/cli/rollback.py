"""`gapless rollback`: back to the release before."""

from __future__ import annotations

from typing import Annotated

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json


def rollback_command(
    service: Annotated[str, typer.Argument(help="The service to move back.")],
    why: Why = "",
    ticket: Ticket = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """End the rollout under way, or move back to the release before the present one; waits until it is done.

    Example: gapless rollback orders --why "customers report wrong totals"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.watch import watch_rollout
    from gapless.core.errors import RolledBack

    client = ControlClient(state_of(state, file))
    rollout = client.post(f"/v1/services/{service}/rollback", {"why": why, "ticket": ticket})
    try:
        watch_rollout(client, rollout, json=json, detach=False)
    except RolledBack:
        if rollout["winner"] != rollout["before"]:
            raise  # a rollout of its own, back to the release before, that was itself rolled back

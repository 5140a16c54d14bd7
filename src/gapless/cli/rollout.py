"""`gapless rollout`: look at a rollout, or steer it by hand."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json


class Steer(StrEnum):
    SHOW = "show"
    WATCH = "watch"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    PROMOTE = "promote"


def rollout_command(
    service: Annotated[str, typer.Argument(help="The service.")],
    verb: Annotated[Steer, typer.Argument(help="What to do with its newest rollout.")] = Steer.SHOW,
    why: Why = "",
    ticket: Ticket = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show a service's newest rollout, or pause, resume, abort or promote it.

    Example: gapless rollout orders pause --why "waiting for the mail campaign"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit
    from gapless.cli.watch import describe, watch_rollout

    client = ControlClient(state_of(state, file))
    path = f"/v1/services/{service}/rollout"
    if verb in (Steer.SHOW, Steer.WATCH):
        found = client.get(path)
    else:
        found = client.post(f"{path}/{verb}", {"why": why, "ticket": ticket})
    if verb is Steer.WATCH:
        watch_rollout(client, found, json=json, detach=False)
    else:
        emit(found if json else describe(found), json)

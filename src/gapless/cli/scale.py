"""`gapless scale`: change a service's capacity."""

from __future__ import annotations

from typing import Annotated

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json


def scale_command(
    service: Annotated[str, typer.Argument(help="The service.")],
    instances: Annotated[int, typer.Argument(help="How many instances it shall have.", min=1)],
    why: Why = "",
    ticket: Ticket = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Change how many instances a service has, until gapless.yaml changes it again.

    Example: gapless scale orders 4 --why "sale on Friday"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    client = ControlClient(state_of(state, file))
    body = {"instances": instances, "why": why, "ticket": ticket}
    scaled = client.post(f"/v1/services/{service}/scale", body)
    emit(scaled if json else f"{service}: {scaled['instances']} instances wanted", json)

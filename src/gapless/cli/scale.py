"""`gapless scale`: change the capacity of a service, or of a server in this directory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json

LIMIT_S = 600.0
"""The server has its own limits; this one only ends the wait for a server that has been stopped (SIGSTOP)."""


def scale_command(
    service: Annotated[
        str, typer.Argument(help="A service of `gapless up`; none for a server in this directory.")
    ] = "",
    instances: Annotated[int, typer.Argument(help="How many instances the service shall have.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="How many workers the server shall have.", min=0)] = 0,
    admin: Annotated[str, typer.Option(help="unix:PATH of the server's admin socket.")] = "",
    why: Why = "",
    ticket: Ticket = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Change how many instances a service has, until gapless.yaml changes it again; or how many workers a server has,
    until it ends.

    Example: gapless scale orders 4 --why "sale on Friday"
    Example: gapless scale --workers 4
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    if bool(service and instances) == bool(workers):
        raise typer.BadParameter("Give a service of `gapless up` and its instances, or --workers for a server.")
    if workers:
        done = scale_server(admin, workers)
        emit(done if json else f"{done['workers']} workers serve", json)
        return
    client = ControlClient(state_of(state, file))
    body = {"instances": instances, "why": why, "ticket": ticket}
    scaled = client.post(f"/v1/services/{service}/scale", body)
    emit(scaled if json else f"{service}: {scaled['instances']} instances wanted", json)


def scale_server(admin: str, workers: int) -> dict[str, Any]:
    """Give the server behind an admin socket ("" for the default) so many workers. Raises NotReady, Busy,
    UnknownName."""
    from gapless.core.errors import Busy, GaplessError, NotReady
    from gapless.server.admin.ask import ask
    from gapless.server.serve import ADMIN

    said = ask(admin.removeprefix("unix:") or ADMIN, "POST", f"/scale?workers={workers}", LIMIT_S)
    if said.status == 200:
        answer: dict[str, Any] = said.body
        return answer
    kind = {409: Busy, 422: NotReady}.get(said.status, GaplessError)
    raise kind(said.body.get("error", ""), said.body.get("remedy", ""))

"""`gapless gateway`: look at the gateway's Envoy, and restart or upgrade it without a lost request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gapless.cli.gateway_run import run_command
from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json

gateway_group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Look at the gateways; run another one; restart or upgrade Envoy without a lost request.

    Example: gapless gateway restart --envoy /opt/envoy-1.41 --why "security release"
    """,
)


@gateway_group.command("status")
def status_command(json: Json = False, file: File = DEFAULT_FILE, state: State = None) -> None:
    """Show which Envoy serves, since how many hot restarts, whether the one before still finishes requests, and every
    gateway that is connected: where it listens, since when, and the version of the routes that it obeys.

    Example: gapless gateway status
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    details = ControlClient(state_of(state, file)).get("/v1/gateway")
    if json:
        emit(details, json)
        return
    gateways = details.pop("gateways", ())
    emit(details)
    if gateways:
        emit("")
        emit(gateways)


gateway_group.command("run")(run_command)


@gateway_group.command("restart")
def restart_command(
    envoy: Annotated[
        Path | None, typer.Option("--envoy", help="Another binary from now on; write it into gapless.yaml to keep it.")
    ] = None,
    why: Why = "",
    ticket: Ticket = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Start a new Envoy that takes the listeners over; the old one finishes what it has begun, then ends. When the new
    one fails, the old one serves on.

    Example: gapless gateway restart --envoy /opt/envoy-1.41
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    body: dict[str, Any] = {"envoy": str(envoy.absolute()) if envoy else "", "why": why, "ticket": ticket}
    done = ControlClient(state_of(state, file)).post("/v1/gateway/restart", body)
    text = f"Envoy {done['version']} serves, pid {done['pid']}; pid {done['leaving']} finishes what it has begun"
    emit(done if json else text, json)

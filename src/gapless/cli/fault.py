"""`gapless fault`: delay or refuse some of a service's requests on purpose, for a while."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json


def fault_command(
    service: Annotated[str, typer.Argument(help="The service; none: list the faults in force.")] = "",
    delay: Annotated[str, typer.Option("--delay", help="How long requests are held up, for instance 200ms.")] = "",
    abort: Annotated[int, typer.Option("--abort", help="Status that is answered in the service's place.")] = 0,
    share: Annotated[str, typer.Option("--share", help="Share of the requests.")] = "100%",
    header: Annotated[str, typer.Option("--header", help="Only requests with NAME, or NAME=VALUE.")] = "",
    lasting: Annotated[str, typer.Option("--for", help="When it ends by itself; an hour at most.")] = "5m",
    clear: Annotated[bool, typer.Option("--clear", help="End the service's fault now.")] = False,
    why: Why = "",
    ticket: Ticket = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Delay or refuse some of a service's requests at the gateway, to see what then happens. It ends by itself, also
    when the control plane is gone, and stands in the change log.

    Example: gapless fault orders --delay 200ms --share 10% --for 5m --why "game day"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, table

    client = ControlClient(state_of(state, file))
    if not service:
        _list(client.get("/v1/faults"), json)
        return
    reason = {"why": why, "ticket": ticket}
    if clear:
        done = client.post(f"/v1/services/{service}/fault/clear", reason)
        emit(done if json else f"{service}: no fault any more", json)
        return
    body = {"delay": delay, "abort": abort, "share": share, "header": header, "for": lasting, **reason}
    done = client.post(f"/v1/services/{service}/fault", body)
    if json:
        emit(done, json)
    else:
        table(COLUMNS, [_row(done)])


COLUMNS = ("service", "delay", "abort", "share", "only with", "ends in")


def _list(faults: list[dict[str, Any]], json: bool) -> None:
    from gapless.cli.output import emit, table

    if json or not faults:
        emit(faults if json else "no fault is in force", json)
        return
    table(COLUMNS, [_row(fault) for fault in faults])


def _row(fault: dict[str, Any]) -> list[str]:
    delay = f"{fault['delay_s'] * 1000:g} ms" if fault["delay_s"] else "-"
    abort = str(fault["abort"]) if fault["abort"] else "-"
    return [fault["service"], delay, abort, f"{fault['share']:g} %", fault["header"] or "-", f"{fault['left_s']:g} s"]

"""`gapless alert`: acknowledge, silence, try; and take back what was done."""

from __future__ import annotations

from typing import Annotated

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Why
from gapless.cli.output import Json

Label = Annotated[list[str] | None, typer.Option("--label", help="NAME=VALUE that alerts must have; repeatable.")]

alert_group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Acknowledge an alert, silence alerts, fire one to see who hears of it, take back what was done about one.

    Example: gapless alert silence --service orders --for 2h --why "load test"
    """,
)


@alert_group.command("ack")
def ack_command(
    number: Annotated[int, typer.Argument(help="A number of `gapless alerts`.")],
    why: Why = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Say that you look after it: nobody is paged about it any more.

    Example: gapless alert ack 17 --why "rolling back"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    alert = ControlClient(state_of(state, file)).post(f"/v1/alerts/{number}/ack", {"why": why})
    emit(alert if json else f"alert {number}: {alert['acked_by']} looks after it", json)


@alert_group.command("silence")
def silence_command(
    rule: Annotated[str, typer.Argument(help="Only alerts of this rule.")] = "",
    service: Annotated[str, typer.Option("--service", help="Only of this service.")] = "",
    label: Label = None,
    for_: Annotated[str, typer.Option("--for", help="How long: 30m, 2h.")] = "",
    end: Annotated[int, typer.Option("--end", help="End the silence of this number instead.", min=0)] = 0,
    why: Why = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Tell nobody of what matches, and do nothing about it, for a while. It is still shown.

    Example: gapless alert silence cpu --service orders --for 2h --why "load test"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    client = ControlClient(state_of(state, file))
    if end:
        ended = client.ask("DELETE", f"/v1/silences/{end}", {"why": why})
        emit(ended if json else f"silence {end} has ended", json)
        return
    if not for_:
        raise typer.BadParameter("Say for how long: --for 2h.")
    body = {"rule": rule, "service": service, "labels": pairs(label or []), "for": for_, "why": why}
    made = client.post("/v1/silences", body)
    emit(made if json else f"silence {made['number']} for {for_}", json)


@alert_group.command("test")
def try_command(
    service: Annotated[str, typer.Argument(help="Of which service it shall be.")] = "",
    severity: Annotated[str, typer.Option("--severity", help="P0, P1, P2 or P3.")] = "P3",
    label: Label = None,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Fire an alert that says that it is a test, to see who hears of it; it is over after a minute.

    Example: gapless alert test orders --severity P1 --label team=shop
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    body = {"service": service, "severity": severity, "labels": pairs(label or [])}
    alert = ControlClient(state_of(state, file)).post("/v1/alerts/test", body)
    emit(alert if json else f"alert {alert['number']} fires; see `gapless notify status`", json)


@alert_group.command("undo")
def undo_command(
    action: Annotated[int, typer.Argument(help="A number of `gapless alerts --actions`.")],
    why: Why = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Take back what was done about an alert: instances, open breakers.

    Example: gapless alert undo 3 --why "the sale is over"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    undone = ControlClient(state_of(state, file)).post(f"/v1/actions/{action}/undo", {"why": why})
    emit(undone if json else f"action {action}: {undone['what']}: undone", json)


def pairs(labels: list[str]) -> dict[str, str]:
    """NAME=VALUE, each."""
    for label in labels:
        if "=" not in label:
            raise typer.BadParameter(f"{label} is not NAME=VALUE")
    return {name: value for name, _, value in (label.partition("=") for label in labels)}

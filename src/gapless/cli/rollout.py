"""`gapless rollout`: look at rollouts, or steer one by hand."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, Override, State, Ticket, Why
from gapless.cli.output import Json

if TYPE_CHECKING:
    from gapless.cli.client import ControlClient


class Steer(StrEnum):
    SHOW = "show"
    WATCH = "watch"
    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ABORT = "abort"


def rollout_command(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A service or a train; left out: all services.")] = "",
    verb: Annotated[Steer, typer.Argument(help="What to do with its newest rollout.")] = Steer.SHOW,
    number: Annotated[int, typer.Argument(min=0, help="`show`: this rollout instead; 0: the newest.")] = 0,
    step: Annotated[bool, typer.Option("--step", help="With promote: pass the present step only.")] = False,
    why: Why = "",
    ticket: Ticket = "",
    override_freeze: Override = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """List the newest rollouts of all services, draw that of one (`show 3`: its third one) with charts and decisions;
    or approve its next step, pause, resume, promote (all of it, or one step) or abort it.

    Example: gapless rollout orders approve --why "figures look good" --ticket OPS-7
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.gates_view import gates_lines
    from gapless.cli.output import emit
    from gapless.cli.watch import describe, watch_all
    from gapless.core.errors import ConfigError

    if step and verb is not Steer.PROMOTE:
        raise ConfigError(f"--step goes with promote, not with {verb}", f"`gapless rollout {name} promote --step`.")
    client = ControlClient(state_of(state, file))
    if verb is Steer.WATCH:
        watch_all(client, _newest(client, name), json=json, detach=False)
    elif verb is Steer.SHOW:
        _show(client, name, number, json)
    else:
        body = {"why": why, "ticket": ticket, "override": override_freeze}
        found = client.post(f"/v1/services/{name}/rollout/{'skip' if step else verb}", body)
        emit(found if json else "\n".join([describe(found), *gates_lines(found)]), json)


def _show(client: ControlClient, name: str, number: int, json: bool) -> None:
    from gapless.cli.output import emit
    from gapless.cli.rollout_show import show
    from gapless.cli.watch import describe

    newest = [] if number else _newest(client, name)
    if name and [each["service"] for each in newest] in ([], [name]):
        answer = client.get(f"/v1/services/{name}/rollouts/{number}/looks")
        if json:
            emit({**answer.pop("rollout"), **answer}, json)
        else:
            show(answer)
        return
    emit(newest if json else "\n".join(map(describe, newest)) or "no service has had a rollout yet", json)


def _newest(client: ControlClient, name: str) -> list[dict[str, Any]]:
    """Of all services, of one, or of a train."""
    found: list[dict[str, Any]] = client.get(f"/v1/rollouts?name={name}" if name else "/v1/rollouts")
    return found

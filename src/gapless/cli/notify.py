"""`gapless notify`: the channels by which people are told, and whether they work."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json

notify_group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Show the channels of `notify:` in gapless.yaml, what waits in them and what was not delivered; try one.

    Example: gapless notify test ops
    """,
)


@notify_group.command("status")
def status_command(json: Json = False, file: File = DEFAULT_FILE, state: State = None) -> None:
    """Show each channel: what was delivered, what waits, the last error, and dead letters.

    Example: gapless notify status
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, line

    channels = ControlClient(state_of(state, file)).get("/v1/notify")
    if json:
        emit(channels, json)
        return
    if not channels:
        line("there are no channels: give them below `notify:` in gapless.yaml (docs/alerts.md)")
        return
    emit([_row(channel) for channel in channels])
    for channel in channels:
        for dead in channel["dead"]:
            line(f"not delivered by {channel['channel']}: {dead['title']} ({dead['error']}; {_moment(dead['at'])})")


@notify_group.command("test")
def try_command(
    channel: Annotated[str, typer.Argument(help="A channel of gapless.yaml.")],
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Send a notice that says that it is a test, once. Exit status 1 when it was not taken.

    Example: gapless notify test ops
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    done = ControlClient(state_of(state, file)).post(f"/v1/notify/{channel}/test", {})
    emit(done if json else f"{channel}: {'delivered' if done['ok'] else done['error']}", json)
    if not done["ok"]:
        raise typer.Exit(1)


def _row(channel: dict[str, Any]) -> dict[str, Any]:
    keys = ("channel", "kind", "delivered", "waiting", "attempts", "died")
    return {key: channel[key] for key in keys} | {"error": channel["error"]}


def _moment(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")

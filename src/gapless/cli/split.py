"""`gapless split`: the shares of a service's releases, by hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json


def split_command(
    service: Annotated[str, typer.Argument(help="The service.")],
    shares: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RELEASE=PERCENT]...", help="Together 100; of releases with ready instances. None: only show."
        ),
    ] = None,
    why: Why = "",
    ticket: Ticket = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show which share of the users each release of a service has, or move it by hand: between both releases of a
    paused rollout, or between the stable one and the old pool that is kept. Users stay with their release, as in a
    rollout.

    Example: gapless split orders 1.4=90 1.5=10 --why "one more look at the totals"
    Example: gapless split orders 1.5=100
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    client, path = ControlClient(state_of(state, file)), f"/v1/services/{service}/split"
    if shares:
        body = {"shares": [share_of(share) for share in shares], "why": why, "ticket": ticket}
        found = client.post(path, body)
    else:
        found = client.get(path)
    emit(found if json else _told(found), json)


def share_of(text: str) -> tuple[str, float]:
    """Release and percent of `1.5=10` or `1.5=10%`. Raises ConfigError."""
    from gapless.core.errors import ConfigError

    release, _, percent = text.rpartition("=")
    try:
        value = float(percent.removesuffix("%"))
    except ValueError:
        release = ""
    if not release:
        raise ConfigError(f"{text} is not RELEASE=PERCENT", "Write for instance `1.4=90 1.5=10`.")
    return release, value


def _told(found: dict[str, Any]) -> str:
    shares = ", ".join(f"{release} {share * 100:.4g}%" for release, share in found["shares"].items())
    return f"{found['service']}: {shares}"

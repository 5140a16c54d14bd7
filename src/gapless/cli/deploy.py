"""`gapless deploy`: move a service to a new release, and watch it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json


def deploy_command(
    service: Annotated[str, typer.Argument(help="The service to move.")],
    release: Annotated[str, typer.Option("--release", help="Name of the new version; default: from its content.")] = "",
    source: Annotated[
        Path | None, typer.Option("--from", help="Directory or wheel of the code; default: the service's `source`.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option("--env", help="KEY=VALUE for this release; repeatable.")] = None,
    why: Why = "",
    ticket: Ticket = "",
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end of the rollout.")] = False,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Deploy a release: its instances are started, users are moved step by step, and the figures decide whether it is
    promoted or rolled back.

    Exit status: 0 promoted, 15 rolled back or refused, 8 when another rollout is under way.

    Example: gapless deploy orders --release 1.5.0 --from ./build --why "faster checkout"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.watch import watch_rollout

    client = ControlClient(state_of(state, file))
    rollout = client.post(
        f"/v1/services/{service}/deploy",
        {
            "source": str(source.absolute()) if source else "",
            "version": release,
            "env": _pairs(env or []),
            "why": why,
            "ticket": ticket,
        },
    )
    watch_rollout(client, rollout, json=json, detach=detach)


def _pairs(settings: list[str]) -> dict[str, str]:
    from gapless.core.errors import ConfigError

    wrong = [setting for setting in settings if "=" not in setting]
    if wrong:
        raise ConfigError(f"--env {wrong[0]} is not KEY=VALUE", "Write for instance --env LOG_LEVEL=debug.")
    return dict(setting.split("=", 1) for setting in settings)

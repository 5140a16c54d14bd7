"""`gapless deploy`: move services to new releases, and watch it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, Override, State, Ticket, Why
from gapless.cli.output import Json


def deploy_command(
    services: Annotated[
        list[str], typer.Argument(metavar="SERVICE[=RELEASE]...", help="What to move; several move as a train.")
    ],
    release: Annotated[str, typer.Option("--release", help="Name of the new version; default: from its content.")] = "",
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="Directory or wheel of the code; default: the service's `source`. Of several: SERVICE=PATH."
        ),
    ] = None,
    env: Annotated[list[str] | None, typer.Option("--env", help="KEY=VALUE for this release; repeatable.")] = None,
    train: Annotated[str, typer.Option("--train", help="Name for several that move together and end alike.")] = "",
    at: Annotated[
        str, typer.Option("--at", help='When to begin: "18:30", "2026-12-01 09:00", or "open": as soon as it may.')
    ] = "",
    override_freeze: Override = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would happen, in order; change nothing.")
    ] = False,
    why: Why = "",
    ticket: Ticket = "",
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end of the rollout.")] = False,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Deploy a release: its instances are started, users are moved step by step, and the figures decide whether it is
    promoted or rolled back. Several services move as one rollout: step by step together, and all back when one is.

    Exit status: 0 promoted, 15 rolled back or refused, 8 when another rollout is under way, 18 in a freeze.

    Example: gapless deploy orders=1.5 payment=2.1 --train checkout-42 --why "faster checkout"
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, note
    from gapless.cli.preflight import report_of, warnings
    from gapless.cli.watch import watch_all

    orders = orders_of(services, release, source or [], env or [])
    body = {
        "orders": orders,
        "train": train,
        "why": why,
        "ticket": ticket,
        "override": override_freeze,
        **(_scheduled(at) if at else {}),
    }
    client = ControlClient(state_of(state, file))
    if dry_run:
        from gapless.cli.outline import told

        outline = client.post("/v1/deploy", {**body, "dry_run": True})
        emit(outline if json else told(outline), json)
        return
    for order in orders:
        for warning in warnings(report_of(client, order["service"], order["version"])):
            note(warning)
    watch_all(client, client.post("/v1/deploy", body)["rollouts"], json=json, detach=detach)


def orders_of(services: list[str], release: str, sources: list[str], env: list[str]) -> list[dict[str, Any]]:
    """What each service is to move to. Raises ConfigError."""
    from gapless.core.errors import ConfigError

    named = [(name, version) for name, _, version in (each.partition("=") for each in services)]
    if release and (len(named) > 1 or named[0][1]):
        raise ConfigError("--release is for one service without a version", "Write SERVICE=RELEASE for each.")
    if env and len(named) > 1:
        raise ConfigError("--env is for one service", "Deploy it by itself, or set `env` in gapless.yaml.")
    paths = _paths(sources, [name for name, _ in named])
    return [
        {"service": name, "version": version or release, "source": paths.get(name, ""), "env": _pairs(env)}
        for name, version in named
    ]


def _paths(sources: list[str], names: list[str]) -> dict[str, str]:
    from gapless.core.errors import ConfigError

    if len(names) == 1 and len(sources) == 1:
        path = sources[0].removeprefix(f"{names[0]}=")
        return {names[0]: str(Path(path).absolute())}
    found = dict(source.split("=", 1) for source in sources if source.partition("=")[0] in names and "=" in source)
    if len(found) != len(sources):
        raise ConfigError("--from does not say whose source it is", f"Write for instance --from {names[0]}=./build.")
    return {name: str(Path(path).absolute()) for name, path in found.items()}


def _pairs(settings: list[str]) -> dict[str, str]:
    from gapless.core.errors import ConfigError

    wrong = [setting for setting in settings if "=" not in setting]
    if wrong:
        raise ConfigError(f"--env {wrong[0]} is not KEY=VALUE", "Write for instance --env LOG_LEVEL=debug.")
    return dict(setting.split("=", 1) for setting in settings)


def _scheduled(at: str) -> dict[str, Any]:
    from gapless.core.world import RealWorld

    return {"scheduled": True, "begin_at": begin_at(at, RealWorld().time())}


def begin_at(at: str, now_at: float) -> float:
    """Seconds since the epoch of a moment as people write it, by the local time zone; a bare time is the next one. 0:
    as soon as it may. Raises ConfigError."""
    from datetime import datetime, time, timedelta

    from gapless.core.errors import ConfigError

    if at == "open":
        return 0.0
    now = datetime.fromtimestamp(now_at)  # noqa: DTZ006 people mean the clock on their wall
    try:
        if len(at) <= len("18:30:00"):
            moment = datetime.combine(now.date(), time.fromisoformat(at))
            moment += timedelta(days=moment <= now)
        else:
            moment = datetime.fromisoformat(at)
    except ValueError:
        raise ConfigError(f"--at {at} is no time", 'Write "18:30", "2026-12-01 09:00", or "open".') from None
    if moment.timestamp() < now_at:
        raise ConfigError(f"--at {at} is over", "Name a moment to come, or leave --at out.")
    return moment.timestamp()

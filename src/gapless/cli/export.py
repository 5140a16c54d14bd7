"""`gapless export`: files for the programs around us."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File

if TYPE_CHECKING:
    from gapless.config import System

KINDS = ("systemd", "prometheus", "grafana")


def export_command(
    kind: Annotated[
        str, typer.Argument(help="What to write: systemd (a unit file), prometheus (its files), grafana (a dashboard).")
    ],
    serve: Annotated[
        list[str] | None, typer.Argument(help="systemd: the app, then options as for `gapless serve`, behind `--`.")
    ] = None,
    name: Annotated[str, typer.Option(help="systemd: the unit's name. Default: the app's module.")] = "",
    user: Annotated[str, typer.Option(help="systemd: the account it runs as. Default: for your own systemd.")] = "",
    directory: Annotated[str, typer.Option(help="systemd: where it runs. Default: here.")] = "",
    to: Annotated[Path, typer.Option(help="prometheus: the directory to write into.")] = Path("prometheus"),
    file: File = DEFAULT_FILE,
) -> None:
    """Print a systemd unit for `gapless serve` with these options, or a Grafana dashboard of the system in
    gapless.yaml; or write the configuration of a Prometheus for it: scraping, recording rules, alerts from objectives.

    systemd is told when the server is ready, watches that it lives, reloads by `gapless reload`, and keeps the
    listeners while it restarts it.

    Example: gapless export systemd --name orders --user www-data -- shop.orders:app --bind 0.0.0.0:8000 --workers 2
    """
    from gapless.cli.output import line
    from gapless.core.errors import ConfigError, UnknownName

    if kind == "systemd":
        if not serve:
            raise ConfigError("there is no app to serve", "Give it behind `--`, for instance -- shop.orders:app.")
        line(systemd_unit(serve, name, user, os.path.abspath(directory)).rstrip())
    elif kind == "prometheus":
        for path in write_prometheus(_system(file), to):
            line(f"wrote {path}")
    elif kind == "grafana":
        line(grafana_dashboard(_system(file)))
    else:
        raise UnknownName(f"there is no export {kind!r}", f"There is: {', '.join(KINDS)}.")


def _system(file: Path) -> System:
    from gapless.config import load

    return load(file)


def write_prometheus(system: System, directory: Path) -> list[Path]:
    """Raises ConfigError where it cannot be written."""
    import yaml

    from gapless.core.errors import ConfigError
    from gapless.observe.exports.prometheus_files import CONFIG, RULES, config, rules

    listen = str(system.metrics.listen or "")
    parts = {CONFIG: config(listen), RULES: rules(system.name, list(system.services.values()))}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, value in parts.items():
            (directory / name).write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110))
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}", "Name another directory by --to.") from error
    return [directory / name for name in parts]


def grafana_dashboard(system: System) -> str:
    """JSON."""
    from gapless.cli.output import as_json
    from gapless.observe.exports.grafana import dashboard

    return as_json(dashboard(system.name, system.services.values()))


def systemd_unit(serve: list[str], name: str, user: str, directory: str) -> str:
    """The unit's text. Raises ConfigError; wrong options of `serve` are complained of as there."""
    from gapless.server.settings import seconds
    from gapless.server.systemd.unit import Unit, unit_text

    asked = _parsed(serve)
    admin = asked["admin"].removeprefix("unix:")
    return unit_text(
        Unit(
            name=name or asked["app"].partition(":")[0].rpartition(".")[2],
            python=sys.executable,
            options=serve,
            directory=directory,
            admin=os.path.join(directory, admin) if admin else "",
            user=user,
            start_s=seconds(asked["start"], "--start"),
            drain_s=seconds(asked["drain"], "--drain"),
        )
    )


def _parsed(serve: list[str]) -> dict[str, Any]:
    """What `gapless serve` would understand, without running it."""
    from gapless.cli.app import build

    verb = typer.main.get_command(build()).commands["serve"]  # type: ignore[attr-defined]
    return dict(verb.make_context("gapless serve", list(serve)).params)

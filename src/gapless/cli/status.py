"""`gapless status`: what runs, and how it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json


def status_command(
    service: Annotated[str, typer.Argument(help="Only this service.")] = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show services, releases with their share of the users, instances and rollouts.

    Example: gapless status orders
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, line, table

    client = ControlClient(state_of(state, file))
    status = client.get("/v1/status")
    services = _chosen(status["services"], service)
    if json:
        emit({**status, "services": services}, json)
        return
    line(_headline(status))
    if registry := status.get("registry"):
        line(_registry_line(registry))
    if control := status["control"]:
        line(_leader_line(control))
    table(
        ("service", "release", "share", "instance", "phase", "address", "detail"),
        [row for name, it in services.items() for row in _rows(name, it)],
    )
    for name, it in services.items():
        if it["rollout"]:
            line(_rollout_line(it["rollout"]))
        if it["config"]["revision"] or it["config"]["stage"]:
            line(_config_line(name, it["config"]))


def _chosen(services: dict[str, Any], name: str) -> dict[str, Any]:
    from gapless.core.errors import UnknownName

    if name and name not in services:
        raise UnknownName(f"there is no service {name!r}", f"The services are: {', '.join(services) or 'none'}.")
    return {name: services[name]} if name else services


def _headline(status: dict[str, Any]) -> str:
    gateway = status["gateway"]
    ready = "ready" if status["ready"] else "not ready"
    refusal = f"; the gateway refused the newest routes: {gateway['refusal']}" if gateway["refusal"] else ""
    return f"{status['system']}: {ready}, http://{status['listen']}, gateway pid {gateway['pid']}{refusal}"


def _registry_line(registry: dict[str, Any]) -> str:
    names = f", DNS {registry['dns']} (.{registry['domain']})" if registry["dns"] else ""
    return f"registry http://{registry['http']}{names}"


def _leader_line(control: dict[str, Any]) -> str:
    standbys = ", ".join(control["standbys"]) or "nobody"
    return f"led by {control['leader'] or 'nobody'}; standing by: {standbys}; store {control['store']}"


def _rows(name: str, service: dict[str, Any]) -> list[list[str]]:
    rows = []
    for it in sorted(service["instances"], key=lambda i: (i["release"], i["id"])):
        share = service["split"].get(it["release"])
        detail = it["detail"].splitlines()[0] if it["detail"] else ""
        shown = "-" if share is None else f"{share:.0%}"
        rows.append([name, it["release"], shown, it["id"], it["phase"], it["address"], detail])
    return rows or [[name, service["stable"], "-", "-", "no instance", "-", ""]]


def _config_line(name: str, config: dict[str, Any]) -> str:
    from gapless.cli.watch_stage import describe

    stage = config["stage"]
    return f"configuration of {name}: revision {config['revision']}{f'; staged: {describe(stage)}' if stage else ''}"


def _rollout_line(rollout: dict[str, Any]) -> str:
    from gapless.cli.watch import describe

    return f"rollout {rollout['number']} of {describe(rollout)}"

"""`gapless status`: what runs, and how it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json


def status_command(
    service: Annotated[str, typer.Argument(help="Only this service.")] = "",
    changes: Annotated[bool, typer.Option("--changes", help="The change log instead.")] = False,
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
    if changes:
        found = [c for c in client.get("/v1/changes") if service in ("", c["service"])]
        emit(found if json else [_change_row(change) for change in found], json)
        return
    status = client.get("/v1/status")
    services = _chosen(status["services"], service)
    if json:
        emit({**status, "services": services}, json)
        return
    line(_headline(status))
    table(
        ("service", "release", "share", "instance", "phase", "address", "detail"),
        [row for name, it in services.items() for row in _rows(name, it)],
    )
    for it in services.values():
        if it["rollout"]:
            line(_rollout_line(it["rollout"]))


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


def _rows(name: str, service: dict[str, Any]) -> list[list[str]]:
    rows = []
    for it in sorted(service["instances"], key=lambda i: (i["release"], i["id"])):
        share = service["split"].get(it["release"])
        detail = it["detail"].splitlines()[0] if it["detail"] else ""
        shown = "-" if share is None else f"{share:.0%}"
        rows.append([name, it["release"], shown, it["id"], it["phase"], it["address"], detail])
    return rows or [[name, service["stable"], "-", "-", "no instance", "-", ""]]


def _rollout_line(rollout: dict[str, Any]) -> str:
    from gapless.cli.watch import describe

    return f"rollout {rollout['number']} of {describe(rollout)}"


def _change_row(change: dict[str, Any]) -> dict[str, Any]:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(change["at"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return {"number": change["number"], "at": at} | {k: change[k] for k in ("who", "what", "why", "ticket")}

"""`gapless apply`: make a changed gapless.yaml what holds, without a new start."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State, Ticket, Why
from gapless.cli.output import Json


def apply_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    why: Why = "",
    ticket: Ticket = "",
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Read gapless.yaml again and apply it at once: routes, limits, policies, capacity, services that are new or gone.

    All of it or nothing: a file with mistakes is refused whole, and so is one whose routes the gateway refuses. Code
    and environment of a service that runs wait for the next `gapless deploy`.

    Exit status: 2 refused, 8 when a rollout stands in the way, 11 refused by the gateway.

    Example: gapless apply --dry-run
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, line

    asked = {"file": str(file.absolute()), "dry_run": dry_run, "why": why, "ticket": ticket}
    found = ControlClient(state_of(state, file)).post("/v1/apply", asked)
    if json:
        emit(found, json)
        return
    for text in told(found):
        line(text)


RELEASED = ("app", "command", "source", "env")
"""Parts of a service's definition that make a new release."""


def told(found: dict[str, Any]) -> list[str]:
    """What was, or would be, changed, for people."""
    from gapless.cli.changes import difference

    if not found["changes"]:
        return ["nothing to apply: all is as gapless.yaml says"]
    lines = []
    for change in found["changes"]:
        head = f"change {change['number']}: " if found["applied"] else ""
        lines += [f"{head}{change['what']}", *(f"{difference(each)}{_later(each)}" for each in change["diff"])]
    return lines if found["applied"] else [*lines, "nothing was changed: this was a dry run"]


def _later(each: dict[str, Any]) -> str:
    record, _, place = each["where"].partition(" ")
    changed = each["before"] is not None and record.startswith("services/")
    return "  (with the next deploy)" if changed and place.partition(".")[0] in RELEASED else ""

"""`gapless incidents`: what went wrong, and what probably did it."""

from __future__ import annotations

from typing import Any

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json


def incidents_command(json: Json = False, file: File = DEFAULT_FILE, state: State = None) -> None:
    """Show incidents, newest first: when, what, and the change that is most likely to blame.

    Example: gapless incidents
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit

    found = ControlClient(state_of(state, file)).get("/v1/incidents")
    emit(found if json else [_row(incident) for incident in found] or "there was none", json)


def _row(incident: dict[str, Any]) -> dict[str, Any]:
    from gapless.cli.alerts import moment

    suspects = incident["suspects"]
    return {
        "incident": incident["number"],
        "severity": incident["severity"],
        "state": incident["state"],
        "opened": moment(incident["opened_at"]),
        "services": ", ".join(incident["services"]) or "-",
        "what": incident["title"],
        "suspect": f"{suspects[0]['what']} ({suspects[0]['probability']:.0%})" if suspects else "-",
    }

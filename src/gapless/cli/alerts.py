"""`gapless alerts`: what is wrong now, what was, and what was done about it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gapless.cli.options import DEFAULT_FILE, File, State
from gapless.cli.output import Json


def alerts_command(
    service: Annotated[str, typer.Argument(help="Only this service.")] = "",
    history: Annotated[bool, typer.Option("--history", help="Those that are over, newest first.")] = False,
    actions: Annotated[bool, typer.Option("--actions", help="What was done about them, or proposed.")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="The rules, as they are evaluated.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="How many of the past.", min=1)] = 50,
    json: Json = False,
    file: File = DEFAULT_FILE,
    state: State = None,
) -> None:
    """Show what fires, the worst first; or what is over, what was done, and by which rules.

    Example: gapless alerts --history
    """
    from gapless.cli.client import ControlClient, state_of
    from gapless.cli.output import emit, line

    client = ControlClient(state_of(state, file))
    what = "history" if history else "actions" if actions else "rules" if rules else "now"
    paths = {
        "now": "/v1/alerts",
        "history": f"/v1/alerts/history?limit={limit}",
        "actions": f"/v1/actions?limit={limit}",
        "rules": "/v1/alerts/rules",
    }
    found = [each for each in client.get(paths[what]) if service in ("", each["service"])]
    if json:
        emit(found, json)
        return
    rows = {"actions": _action, "rules": _rule}.get(what, _alert)
    emit([rows(each) for each in found] or "nothing")
    if what == "now":
        for silence in client.get("/v1/silences"):
            line(_silence(silence))


def _alert(alert: dict[str, Any]) -> dict[str, Any]:
    state = alert["state"]
    if alert.get("silenced"):
        state += ", silenced"
    if alert["acked_by"]:
        state += f", {alert['acked_by']} is on it"
    if alert["blind_at"]:
        state += ", no data"
    since = moment(alert["fired_at"] or alert["since_at"])
    return {"alert": alert["number"], "severity": alert["severity"], "state": state, "since": since} | {
        "what": alert["summary"]
    }


def _action(action: dict[str, Any]) -> dict[str, Any]:
    useful = {None: "", True: ", it helped", False: ", it did not help"}[action["effective"]]
    keys = {"action": action["number"], "alert": action["alert"], "at": moment(action["at"])}
    return keys | {"state": action["state"] + useful, "what": action["what"], "detail": action["detail"]}


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    bound = next((f"{word} {rule[word]:g}" for word in ("above", "below") if rule[word] is not None), "absent")
    keys = {"rule": rule["name"], "service": rule["service"] or "-", "severity": rule["severity"]}
    return keys | {"metric": rule["metric"], "bound": bound, "for": f"{rule['for_s']:g} s", "do": rule["actions"]}


def _silence(silence: dict[str, Any]) -> str:
    labels = [f"{name}={value}" for name, value in silence["labels"].items()]
    what = " ".join(part for part in [silence["rule"], silence["service"], *labels] if part) or "everything"
    until = moment(silence["until_at"])
    return f"silence {silence['number']}: {what} until {until}, by {silence['who']}: {silence['why']}"


def moment(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")

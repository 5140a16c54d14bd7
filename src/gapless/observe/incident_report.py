"""An incident for people: its time line, and a draft of the post-mortem in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from gapless.core.model import Change
from gapless.core.model.alert import Action, Alert, AlertState
from gapless.core.model.incident import Incident, Suspect, TimelineEntry

BEFORE_S, AFTER_S = 1_800.0, 300.0
"""What is shown of the time around an incident."""
MOST = 300
"""Entries of a time line."""


def timeline(
    incident: Incident, alerts: Iterable[Alert], changes: Iterable[Change], actions: Iterable[Action], now_at: float
) -> list[TimelineEntry]:
    """Everything on one line of time: what changed, what was alerted, what was done, oldest first."""
    since_at = min(incident.onset_at or incident.opened_at, incident.opened_at) - BEFORE_S
    until_at = (incident.closed_at or now_at) + AFTER_S
    found = [*_own(incident)]
    for alert in alerts:
        if alert.number in incident.alerts:
            found += _of_alert(alert)
    found += [_of_action(action) for action in actions if action.alert in incident.alerts]
    found += [_of_change(change) for change in changes]
    inside = [entry for entry in found if since_at <= entry.at <= until_at]
    return sorted(inside, key=lambda entry: (entry.at, entry.kind))[-MOST:]


def _own(incident: Incident) -> Iterable[TimelineEntry]:
    number = incident.number
    if incident.onset_at:
        yield TimelineEntry(at=incident.onset_at, kind="incident", text="it begins, by the metrics", number=number)
    yield TimelineEntry(at=incident.opened_at, kind="incident", text=f"opened: {incident.title}", number=number)
    if incident.closed_at:
        yield TimelineEntry(
            at=incident.closed_at, kind="incident", text="closed: nothing fires any more", number=number
        )


def _of_alert(alert: Alert) -> Iterable[TimelineEntry]:
    def entry(at: float, text: str) -> TimelineEntry:
        return TimelineEntry(at=at, kind="alert", text=text, service=alert.service, number=alert.number)

    yield entry(alert.fired_at, f"{alert.severity} {alert.rule} fires: {alert.summary}")
    if alert.acked_at:
        yield entry(alert.acked_at, f"{alert.acked_by} looks after it{f': {alert.why}' if alert.why else ''}")
    if alert.state is AlertState.RESOLVED:
        yield entry(alert.resolved_at, f"{alert.severity} {alert.rule} is over")


def _of_action(action: Action) -> TimelineEntry:
    text = f"{action.what}: {action.state}{f' ({action.detail})' if action.detail else ''}"
    return TimelineEntry(at=action.at, kind="action", text=text, service=action.service, number=action.number)


def _of_change(change: Change) -> TimelineEntry:
    why = f" ({change.why})" if change.why else ""
    text = f"{change.what}, by {change.who}{why}"
    return TimelineEntry(at=change.at, kind=_kind(change), text=text, service=change.service, number=change.number)


def _kind(change: Change) -> Literal["experiment", "rollout", "change"]:
    if change.what.startswith("experiment"):
        return "experiment"
    return "rollout" if change.rollout else "change"


def post_mortem(incident: Incident, entries: Sequence[TimelineEntry], actions: Sequence[Action], system: str) -> str:
    """A draft that somebody completes: what is known is filled in, what only people know is asked."""
    lines = [
        f"# Incident {incident.number} of {system}: {incident.title}",
        "",
        "Draft, made from the records. Complete what is in _italics_.",
        "",
        "## Summary",
        "",
        f"- Severity: {incident.severity}",
        f"- Services: {', '.join(incident.services) or 'the system'}",
        f"- Began: {moment(incident.onset_at or incident.opened_at)}",
        f"- Noticed: {moment(incident.opened_at)}",
        f"- Over: {moment(incident.closed_at) if incident.closed_at else 'not yet'}",
        f"- Lasted: {_lasted(incident)}",
        f"- Probable cause: {_cause(incident.suspects)}",
        "- _What users noticed:_",
        "",
        "## Impact",
        "",
        *_impact(incident),
        "",
        "## Time line",
        "",
        "| time | what | |",
        "|---|---|---|",
        *(f"| {moment(entry.at)} | {entry.kind} | {_cell(entry.text)} |" for entry in entries),
        "",
        "## Suspected cause",
        "",
        *_suspects(incident.suspects),
        "",
        "_Why it was not noticed before users met it:_",
        "",
        "## What was done",
        "",
        *(_done(actions) or ["Nothing by Gapless. _What people did:_"]),
        "",
        "## Follow-ups",
        "",
        "- [ ] _What keeps it from happening again:_",
        "- [ ] _What would have shown it sooner:_",
        "- [ ] _What would have made it smaller:_",
    ]
    return "\n".join(lines) + "\n"


def _impact(incident: Incident) -> list[str]:
    known = incident.impact
    if not known:
        return ["_No metrics are known of it._"]
    lines = []
    if requests := known.get("requests"):
        errors = known.get("errors", 0.0)
        lines.append(f"- {errors:,.0f} of {requests:,.0f} requests failed ({errors / requests:.2%}).")
    if p99_s := known.get("p99_s"):
        lines.append(f"- The slowest p99 was {p99_s:.3g} s.")
    return lines


def _suspects(suspects: Sequence[Suspect]) -> list[str]:
    if not suspects:
        return ["Nothing has changed shortly before. _What else it was:_"]
    lines = []
    for suspect in suspects[:3]:
        head = f"**{suspect.what}** (change {suspect.number}, {moment(suspect.at)}, by {suspect.who or 'unknown'})"
        lines += [f"- {head}: {suspect.probability:.0%}", *(f"  - {text}" for text in suspect.evidence)]
    return lines


def _done(actions: Sequence[Action]) -> list[str]:
    return [f"- {moment(each.at)} {each.what}: {each.state} {each.detail}".rstrip() for each in actions]


def _cause(suspects: Sequence[Suspect]) -> str:
    if not suspects or suspects[0].probability < 0.3:
        return "not clear"
    return f"{suspects[0].what} ({suspects[0].probability:.0%})"


def _lasted(incident: Incident) -> str:
    if not incident.closed_at:
        return "it goes on"
    return f"{(incident.closed_at - (incident.onset_at or incident.opened_at)) / 60:.0f} min"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")

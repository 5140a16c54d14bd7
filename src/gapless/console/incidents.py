"""The incident time line: changes, what failed, alerts and actions, newest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from gapless.console import words
from gapless.console.sight import Sight
from gapless.control.alert_commands import described
from gapless.control.undoing import undone_by
from gapless.core.model import Change, Instance, Phase
from gapless.core.model.alert import Action, ActionState, Alert, AlertState, Severity, Silence
from gapless.core.model.incident import Incident
from gapless.observe.alert_state import silenced

SHOWN = 200
CLOSED_SHOWN = 10
SEVERE = (Severity.P0, Severity.P1)
"""What somebody is called for."""
AUTOMATIC = "gapless"
"""The author of what was decided without a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One entry. `kind`: change, decision, failure, alert, action, experiment. `numbers`: those behind a decision."""

    id: str
    at: float
    kind: str
    title: str
    service: str = ""
    who: str = ""
    why: str = ""
    ticket: str = ""
    tone: str = "plain"
    detail: str = ""
    numbers: tuple[tuple[str, str], ...] = ()
    href: str = ""
    undo: int = 0
    """The number of an action or a change that can be taken back, by `undo_by`."""
    undo_by: str = ""
    undone_by: int = 0
    """The number of the change that took it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    title: str
    moments: tuple[Moment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentsView:
    days: tuple[Day, ...]
    incidents: tuple[Incident, ...]
    """Open ones, the newest first, each with its suspects."""
    closed: tuple[Incident, ...]
    """The newest first."""
    silences: tuple[tuple[Silence, str], ...]
    """In force, and what each is for."""
    silenced: frozenset[int]
    """Numbers of alerts that nobody is told of."""
    firing: tuple[Alert, ...]
    """The worst first."""
    kinds: tuple[tuple[str, str, int], ...]
    """For the filter: kind, what it is called, how many there are."""
    kind: str
    services: tuple[str, ...]
    service: str
    total: int


KINDS = {
    "change": "changes",
    "decision": "decisions",
    "failure": "failures",
    "alert": "alerts",
    "action": "actions",
    "experiment": "experiments",
}


async def incidents_view(sight: Sight, params: Mapping[str, str]) -> IncidentsView:
    records = sight.records
    alerts, incidents = records.all_of(Alert), records.all_of(Incident)
    silences = [each for each in records.all_of(Silence) if each.since_at <= sight.at < each.until_at]
    moments = [*of_changes(sight, records.changes(SHOWN)), *failures(records.instances())]
    moments += [moment for alert in alerts[-SHOWN:] for moment in of_alert(alert)]
    moments += map(of_action, records.all_of(Action)[-SHOWN:])
    kind, service = params.get("kind", ""), params.get("service", "")
    here = [m for m in moments if not service or m.service == service]
    shown = sorted((m for m in here if not kind or m.kind == kind), key=lambda m: (m.at, m.id), reverse=True)
    return IncidentsView(
        days=days(shown[:SHOWN]),
        incidents=tuple(incident for incident in reversed(incidents) if incident.state == "open"),
        closed=tuple(incident for incident in reversed(incidents) if incident.state != "open")[:CLOSED_SHOWN],
        silences=tuple((each, described(each)) for each in silences),
        silenced=frozenset(a.number for a in alerts if silenced(a, silences, sight.at)),
        firing=tuple(sorted(firing(alerts), key=lambda alert: (alert.severity, alert.since_at))),
        kinds=tuple((name, title, n) for name, title in KINDS.items() if (n := sum(m.kind == name for m in here))),
        kind=kind,
        services=tuple(s.name for s in sight.records.services()),
        service=service,
        total=len(here),
    )


def days(moments: Iterable[Moment]) -> tuple[Day, ...]:
    """`moments` newest first, by day (in UTC)."""
    return tuple(Day(title=title, moments=tuple(of)) for title, of in groupby(moments, key=lambda m: words.day(m.at)))


def of_changes(sight: Sight, changes: Sequence[Change]) -> list[Moment]:
    """With what can be done about them. `changes`: the newest first, none left out."""
    offered, undoings = sight.plane.undoing.offers(changes), sight.records.undoings()

    def moment(change: Change) -> Moment:
        by = undone_by(undoings, change.number)
        undo = change.number if change.number in offered else 0
        return replace(of_change(change), undo=undo, undo_by="undo", undone_by=by.number if by else 0)

    return [moment(change) for change in changes]


def of_change(change: Change) -> Moment:
    automatic = change.who == AUTOMATIC
    return Moment(
        id=f"change-{change.number}",
        at=change.at,
        kind="decision" if automatic and change.numbers else "change",
        title=change.what,
        service=change.service,
        who=change.who,
        why=change.why,
        ticket=change.ticket,
        tone=tone_of(change.what),
        numbers=numbers_of(change),
        href=f"/rollouts/{change.service}" if "roll" in change.what and change.service else "",
    )


def tone_of(what: str) -> str:
    """By what is said of it: going back is bad news, arriving is good."""
    text = what.lower()
    if any(word in text for word in ("roll back", "rolled back", "abort", "refused", "back to")):
        return "bad"
    return "good" if "promote" in text else "plain"


def numbers_of(change: Change) -> tuple[tuple[str, str], ...]:
    """Named for people; what is nothing is left out."""
    return named(change.numbers)


def named(numbers: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("_", " "), _number(name, value)) for name, value in numbers.items() if value)


def _number(name: str, value: float) -> str:
    if name.endswith("p99_s"):
        return words.took(value)
    if name.endswith("_s"):
        return words.lasted(value)
    if name.endswith("_rate") or name in ("weight", "share", "power", "surely"):
        return words.percent(value)
    if name.startswith("e_"):
        return words.evidence(value)
    return words.count(value) if value == int(value) else f"{value:.3g}"


def failures(instances: Iterable[Instance]) -> list[Moment]:
    """Instances that ended, or never began, against our will, and those that do not answer now."""
    found = []
    for instance in instances:
        head, _, log = instance.detail.partition("\n")
        if instance.failed and instance.phase is Phase.STOPPED:
            title = f"{instance.id} {'failed' if instance.was_ready else 'never became ready'}: {head}"
        elif instance.phase is Phase.UNREADY:
            title = f"{instance.id} is unready: {head}"
        else:
            continue
        found.append(
            Moment(
                id=f"instance-{instance.id}-{instance.phase}",
                at=instance.since_at,
                kind="failure",
                title=title,
                service=instance.service,
                tone="bad" if instance.failed else "warn",
                detail=log,
                href=f"/instances/{instance.id}",
            )
        )
    return found


def firing(alerts: Iterable[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.state is AlertState.FIRING]


def troubled(alerts: Iterable[Alert]) -> frozenset[str]:
    """The services about which somebody is called now."""
    return frozenset(alert.service for alert in firing(alerts) if alert.severity in SEVERE)


def of_alert(alert: Alert) -> list[Moment]:
    """When it fired, and when that was over; one that is only pending has not happened yet."""
    if not alert.fired_at:
        return []
    began = Moment(
        id=f"alert-{alert.number}",
        at=alert.fired_at,
        kind="alert",
        title=f"{alert.rule}: {alert.summary}" if alert.summary else alert.rule,
        service=alert.service,
        why=f"severity {alert.severity}, acknowledged by {alert.acked_by}: {alert.why}"
        if alert.acked_by
        else f"severity {alert.severity}",
        tone="bad" if alert.state is AlertState.FIRING else "warn",
    )
    if not alert.resolved_at:
        return [began]
    over = Moment(
        id=f"alert-{alert.number}-over",
        at=alert.resolved_at,
        kind="alert",
        title=f"{alert.rule} is over",
        service=alert.service,
        why=f"after {words.lasted(alert.resolved_at - alert.fired_at)}",
        tone="good",
    )
    return [over, began]


def of_action(action: Action) -> Moment:
    """What was done about an alert, or would have been."""
    tones = {ActionState.FAILED: "bad", ActionState.REFUSED: "warn", ActionState.DONE: "accent"}
    return Moment(
        id=f"action-{action.number}",
        at=action.at,
        kind="action",
        title=f"{action.what} ({action.state})",
        service=action.service,
        who="gapless",
        why=action.detail,
        tone=tones.get(action.state, "plain"),
        undo=action.number if action.state is ActionState.DONE and action.undo else 0,
        undo_by="undo-action",
    )

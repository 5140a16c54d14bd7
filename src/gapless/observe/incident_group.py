"""Which alerts are one incident, and when it is over. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gapless.core.model.alert import Alert, AlertState, Severity
from gapless.core.model.incident import Incident
from gapless.observe.incident_blame import reached

OPENING = (Severity.P0, Severity.P1)
CALM_S = 60.0
"""So long must all be quiet; what fires again within it belongs to the same incident."""
JOINED_S = 1_800.0
"""Alerts that come later belong to something else, unless the incident is still open and near."""

Needs = Mapping[str, Sequence[str]]


def grouped(
    open_now: Sequence[Incident], alerts: Sequence[Alert], needs: Needs, next_number: int, now_at: float
) -> list[Incident]:
    """All open incidents after a look, with new ones, and with those that have just ended closed. `alerts`: those that
    count (no tests, none that is silenced), the oldest first."""
    incidents = list(open_now)
    known = {number for incident in incidents for number in incident.alerts}
    firing = [each for each in alerts if each.state is AlertState.FIRING and each.number not in known]
    for alert in sorted(firing, key=lambda each: (each.severity not in OPENING, each.fired_at)):
        place = next((n for n, each in enumerate(incidents) if belongs(each, alert, needs)), None)
        if place is not None:
            incidents[place] = joined(incidents[place], alert)
        elif alert.severity in OPENING:
            incidents.append(opened(alert, next_number, now_at))
            next_number += 1
    by_number = {alert.number: alert for alert in alerts}
    return [_moved(each, by_number, now_at) for each in incidents]


def belongs(incident: Incident, alert: Alert, needs: Needs) -> bool:
    """Whether one of its services needs the alert's, or the other way round; what is about the system is about all."""
    if not alert.service or not any(incident.services):
        return True
    if abs(alert.fired_at - incident.opened_at) > JOINED_S and alert.service not in incident.services:
        return False
    mine = reached(alert.service, needs)
    return any(other in mine or alert.service in reached(other, needs) for other in incident.services)


def opened(alert: Alert, number: int, now_at: float) -> Incident:
    return Incident(
        number=number,
        opened_at=now_at,
        title=alert.summary,
        severity=alert.severity,
        services=(alert.service,) if alert.service else (),
        alerts=(alert.number,),
        onset_at=alert.since_at,
    )


def joined(incident: Incident, alert: Alert) -> Incident:
    services = incident.services
    if alert.service and alert.service not in services:
        services = (*services, alert.service)
    worse = alert.severity < incident.severity
    return replace(
        incident,
        alerts=(*incident.alerts, alert.number),
        services=services,
        severity=min(incident.severity, alert.severity),
        title=alert.summary if worse else incident.title,
        calm_at=0.0,
    )


def _moved(incident: Incident, alerts: Mapping[int, Alert], now_at: float) -> Incident:
    firing = any(n in alerts and alerts[n].state is AlertState.FIRING for n in incident.alerts)
    if firing:
        return replace(incident, calm_at=0.0)
    calm_at = incident.calm_at if 0 < incident.calm_at <= now_at else now_at
    if now_at - calm_at >= CALM_S:
        return replace(incident, state="closed", calm_at=calm_at, closed_at=now_at)
    return replace(incident, calm_at=calm_at)


def blame_due(incident: Incident, now_at: float) -> bool:
    """Whether the suspects are to be weighed (again): often while it is young, and once more at its end."""
    if incident.state == "closed" or not 0 < incident.blamed_at <= now_at:
        return True
    age_s = now_at - incident.opened_at
    return now_at - incident.blamed_at >= (15.0 if age_s < 300 else 60.0 if age_s < 3_600 else 600.0)

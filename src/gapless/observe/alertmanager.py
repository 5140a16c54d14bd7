"""Alerts in the words of Alertmanager's API, version 2. Pure.

https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml: `POST /api/v2/alerts` takes a list of all that
fire, again and again, and of what has ended. It knows alerts by their labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gapless.core.model.alert import Alert, AlertState, Silence
from gapless.observe.alert_state import silenced

RESEND_S = 30.0
OUTLIVES_S = 4 * RESEND_S
"""When we say nothing for so long, it is over, as Prometheus has it: who died must not alert for ever."""
ENDED_FOR_S = 300.0
"""How long the end is told: Alertmanager may have been away when it came."""
_NAME = re.compile(r"[^a-zA-Z0-9_]")


def postable(alerts: Iterable[Alert], silences: Iterable[Silence], system: str, now_at: float) -> list[dict[str, Any]]:
    """What is to be told now. What we have silenced is not told: two places to silence would be one too many."""
    silences = list(silences)
    chosen = [alert for alert in alerts if _is_told(alert, now_at) and not silenced(alert, silences, now_at)]
    return [_posted(alert, system, now_at) for alert in chosen]


def _is_told(alert: Alert, now_at: float) -> bool:
    if alert.state is AlertState.RESOLVED:
        return alert.fired_at > 0 and 0 <= now_at - alert.resolved_at < ENDED_FOR_S
    return alert.state is AlertState.FIRING


def _posted(alert: Alert, system: str, now_at: float) -> dict[str, Any]:
    over = alert.state is AlertState.RESOLVED
    own = {"alertname": alert.rule, "system": system, "service": alert.service, "severity": str(alert.severity)}
    labels = {_NAME.sub("_", name): value for name, value in alert.labels.items()} | own
    return {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {"summary": alert.summary, "value": f"{alert.value:.6g}", "number": str(alert.number)},
        "startsAt": _moment(alert.fired_at),
        "endsAt": _moment(alert.resolved_at if over else now_at + OUTLIVES_S),
    }


def _moment(at: float) -> str:
    """RFC 3339."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")

"""What people are told of alerts, and when again. Pure."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.model.alert import ActionKind, Alert, AlertRule, AlertState, Mode
from gapless.core.model.notice import Notice, Topic

PAGE_EVERY_S = 300.0
MOST_PAGES = 12
"""An hour of it: who has not come by then is not coming for another page."""


def tell(alert: Alert, rule: AlertRule, mode: Mode, silenced: bool, now_at: float) -> tuple[Alert, str]:
    """The alert with what is remembered about telling, and what to say now: "", `firing`, `page` or `resolved`."""
    if alert.state is AlertState.RESOLVED:
        return alert, "resolved" if alert.told and not silenced else ""
    if alert.state is not AlertState.FIRING or silenced:
        return alert, ""
    if not alert.told:
        return replace(alert, told=True, paged_at=now_at), "firing"
    if ActionKind.PAGE in rule.actions and mode is not Mode.OFF and _page_due(alert, now_at):
        return replace(alert, paged=alert.paged + 1, paged_at=now_at), "page"
    return alert, ""


def _page_due(alert: Alert, now_at: float) -> bool:
    return not alert.acked_by and alert.paged < MOST_PAGES and now_at - alert.paged_at >= PAGE_EVERY_S


def notice_of(alert: Alert, what: str, number: int, now_at: float) -> Notice:
    """`what`: as `tell` returns it."""
    minutes = (now_at - alert.fired_at) / 60
    again = f" (for the {alert.flaps + 1}th time)" if alert.flaps else ""
    titles = {
        "firing": f"{alert.summary}{again}",
        "page": f"still, after {minutes:.0f} min, and nobody has acknowledged it: {alert.summary}",
        "resolved": f"over after {minutes:.0f} min: {alert.summary}",
    }
    ways = f"gapless alert ack {alert.number} · gapless alerts"
    return Notice(
        number=number,
        at=now_at,
        topic=Topic.ALERTS,
        title=titles[what],
        text="" if what == "resolved" else ways,
        service=alert.service,
        severity=alert.severity,
        state="resolved" if what == "resolved" else "firing",
        labels={**alert.labels, "rule": alert.rule},
        about=alert.number,
        numbers={"value": alert.value, "bound": alert.bound},
    )

"""What becomes of an alert at each look. Pure.

    nothing → pending (it holds) → firing (it has held for `for`) → resolved (it has been over for `calm`)

- What nobody can see does not move: a firing alert without data goes on firing, a pending one does not come nearer.
- What comes back shortly after it was resolved must be over for longer each time before it is resolved again.
- Time that nobody has looked at does not count as time in which it held, nor does a clock that was moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gapless.core.model.alert import Alert, AlertRule, AlertState, Silence
from gapless.observe.alert_defaults import Watch, with_labels
from gapless.observe.alert_reading import Reading

GAP_S = 60.0
"""Without a look for longer, nobody knows whether it has held in between."""
FLAP_S = 600.0
"""What fires again so soon is the same trouble."""
MOST_FLAPS = 5
"""Doublings of `calm` at most: a minute becomes half an hour."""
NOTED_S = 15.0
"""That a pending alert still holds is written so often, so that a restart does not begin its `for` anew."""


def key_of(watch: Watch, labels: Mapping[str, str]) -> str:
    """What an alert is about: the same for the same trouble."""
    parts = [f"{name}={value}" for name, value in sorted({**watch.labels, **labels}.items())]
    return "/".join([watch.rule.name, watch.service, *parts])


def calm_needed_s(rule: AlertRule, flaps: int) -> float:
    return rule.calm_s * 2.0 ** min(flaps, MOST_FLAPS)


def advance(
    before: Alert | None, last: Alert | None, watch: Watch, reading: Reading | None, now_at: float, number: int
) -> Alert | None:
    """The alert after a look. `before`: the one that is pending or firing; `last`: the newest that was resolved of the
    same key. `reading` None: nobody knows. Returns None when there is none (any more)."""
    known = None if reading is None or reading.value is None else reading
    if before is None:
        return _begun(last, watch, known, now_at, number) if known and known.holds else None
    if before.state is AlertState.PENDING:
        return _pending(before, watch.rule, known, now_at)
    return _firing(before, watch.rule, known, now_at)


def _begun(last: Alert | None, watch: Watch, reading: Reading, now_at: float, number: int) -> Alert:
    rule = watch.rule
    again = last is not None and 0 <= now_at - last.resolved_at < FLAP_S
    alert = Alert(
        number=number,
        key=key_of(watch, reading.labels),
        rule=rule.name,
        service=watch.service,
        labels=with_labels(watch, reading.labels),
        severity=rule.severity,
        value=reading.value or 0.0,
        bound=reading.bound,
        since_at=now_at,
        seen_at=now_at,
        flaps=last.flaps + 1 if again and last else 0,
    )
    alert = replace(alert, summary=summary_of(rule, alert))
    return _fired(alert, rule, reading, now_at) if rule.for_s <= 0 else alert


def _pending(alert: Alert, rule: AlertRule, reading: Reading | None, now_at: float) -> Alert | None:
    unseen = not 0 <= now_at - alert.seen_at <= GAP_S
    if reading is None:
        return None if unseen else alert
    if not reading.holds:
        return None
    alert = replace(alert, seen_at=now_at, since_at=now_at if unseen else alert.since_at)
    return _fired(alert, rule, reading, now_at) if now_at - alert.since_at >= rule.for_s else alert


def _fired(alert: Alert, rule: AlertRule, reading: Reading, now_at: float) -> Alert:
    value = reading.value or 0.0
    fired = replace(alert, state=AlertState.FIRING, fired_at=now_at, value=value, bound=reading.bound)
    return replace(fired, summary=summary_of(rule, fired))


def _firing(alert: Alert, rule: AlertRule, reading: Reading | None, now_at: float) -> Alert:
    if reading is None:
        return replace(alert, blind_at=alert.blind_at or now_at, calm_at=0.0)
    alert = replace(alert, blind_at=0.0, seen_at=now_at)
    if reading.holds or not reading.calm:
        return replace(alert, calm_at=0.0)
    calm_at = alert.calm_at if 0 < alert.calm_at <= now_at else now_at
    if now_at - calm_at >= calm_needed_s(rule, alert.flaps):
        return replace(alert, state=AlertState.RESOLVED, calm_at=calm_at, resolved_at=now_at)
    return replace(alert, calm_at=calm_at)


def dropped(alert: Alert, now_at: float) -> Alert | None:
    """Of a rule or service that is no more."""
    if alert.state is AlertState.PENDING:
        return None
    return replace(alert, state=AlertState.RESOLVED, resolved_at=now_at, why="the rule or its service is no more")


def worth_writing(written: Alert | None, now: Alert | None) -> bool:
    """What must outlive the control plane. What only crosses its bound back and forth is not written each time."""
    if written is None or now is None:
        return written is not now
    if written.state is not now.state or written.told != now.told or written.paged != now.paged:
        return True
    return now.state is AlertState.PENDING and now.seen_at - written.seen_at >= NOTED_S


class _Blanks(dict[str, str]):
    """A name that nobody knows stays as it is written."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


def summary_of(rule: AlertRule, alert: Alert) -> str:
    """The sentence for people."""
    plain = f"{alert.service or 'system'}: {rule.name} is {alert.value:.4g} (bound {alert.bound:.4g})"
    if not rule.summary:
        return plain
    names: dict[str, object] = {"service": alert.service, "value": alert.value, "bound": alert.bound, **alert.labels}
    try:
        return rule.summary.format_map(_Blanks(names))  # type: ignore[arg-type]
    except (ValueError, IndexError, AttributeError, TypeError):
        return plain  # an author's braces that mean nothing must not cost the alert


def silenced(alert: Alert, silences: Iterable[Silence], now_at: float) -> bool:
    """Whether somebody does not want to hear of it."""
    return any(each.since_at <= now_at < each.until_at and matches(each, alert) for each in silences)


def matches(silence: Silence, alert: Alert) -> bool:
    if silence.rule not in ("", alert.rule) or silence.service not in ("", alert.service):
        return False
    return all(alert.labels.get(name) == value for name, value in silence.labels.items())

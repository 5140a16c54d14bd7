"""Looks whether anything is wrong: asks the recorded metrics, lets `observe.alert_*` decide, and writes what came of
it, with the notices about it, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from gapless.control.records import Records
from gapless.core.errors import SignalsUnavailable
from gapless.core.model.alert import ActionKind, Alert, AlertPolicy, AlertState, Silence
from gapless.core.model.notice import Notice
from gapless.core.ports import Signals, World
from gapless.observe import alert_notices, alert_reading, alert_state
from gapless.observe.alert_defaults import UNSEEN, Watch, mode_of, watches
from gapless.observe.alert_reading import Answers, Reading, by_service

_log = logging.getLogger("gapless.alerts")

ALERTS_KEPT = 500
"""Of those that are resolved, the last ones."""
MOST_LIVE = 1_000
"""Beyond it nothing new is begun: somebody's labels have exploded, and the log says so."""
TEST_S = 60.0
"""After which an alert that was fired by hand is over."""

Name = tuple[str, str, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class _Draft:
    """What one look comes to."""

    now_at: float
    next_alert: int
    next_notice: int
    puts: list[Any] = field(default_factory=list)
    gone: list[Alert] = field(default_factory=list)
    live: dict[str, Alert] = field(default_factory=dict)
    keys: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Those that were there before the look, by rule and service."""
    refused: int = 0
    """Those that would have begun, beyond the bound."""


class Alerter:
    """`step` is one look."""

    def __init__(
        self, policy: AlertPolicy, records: Records, signals: Signals, world: World, processors: int = 1
    ) -> None:
        self.policy = policy
        self._records = records
        self._signals = signals
        self._world = world
        self._processors = processors
        self._live: dict[str, Alert] = {}
        """What is pending or firing, as it was seen last; the store has it as it was last worth writing."""
        self._watches: tuple[list[object], list[Watch]] = ([], [])
        """Made anew when the policy or a service has changed."""
        self._due: dict[Name, float] = {}
        self._warned: dict[Name, int] = {}
        self._full = False
        """There are as many alerts as there may be, and it was said."""

    async def step(self) -> None:
        """Raises Conflict when a verb wrote first: the next look decides on what it wrote."""
        due = [watch for watch in self.watches() if self._world.now() >= self._due.get(_name(watch), 0.0)]
        answers, away = await self._ask(due)
        draft = self._draft()
        for watch in due:
            self._judge(watch, answers, draft)
        self._judge_sight(away, draft)
        self._warn_of_most(draft)
        self._drop_forgotten(draft)
        self._tell(draft)
        await self._write(draft)
        for watch in due:
            self._due[_name(watch)] = self._world.now() + watch.every_s

    def watches(self) -> list[Watch]:
        """All rules, for all services that there are."""
        made_of: list[object] = [self.policy, *self._records.services()]
        known, found = self._watches
        if len(known) != len(made_of) or any(a is not b for a, b in zip(known, made_of, strict=True)):
            found = watches(self.policy, self._records.services(), self._processors)
            self._watches = (made_of, found)
        return found

    async def _ask(self, due: Sequence[Watch]) -> tuple[Answers | None, bool]:
        """The answers by question, each asked once, and by service; None when nobody answers. All for one moment: what
        is recorded meanwhile would be in the divisor only."""
        at = self._world.time()
        asked = {alert_reading.key_of(each): each for watch in due for each in alert_reading.questions(watch).all()}
        try:
            return {key: by_service(await self._signals.latest(each, at)) for key, each in asked.items()}, False
        except SignalsUnavailable as error:
            _log.debug("no metrics: %s", error)
            return None, True

    def _draft(self) -> _Draft:
        draft = _Draft(
            now_at=self._world.time(),
            next_alert=self._records.next_number(Alert),
            next_notice=self._records.next_number(Notice),
        )
        for stored in self._records.all_of(Alert):
            if stored.state is not AlertState.RESOLVED:
                seen = self._live.get(stored.key, stored)
                draft.keys.setdefault((stored.rule, stored.service), []).append(stored.key)
                draft.live[stored.key] = replace(
                    stored,
                    seen_at=max(seen.seen_at, stored.seen_at),
                    since_at=seen.since_at,
                    calm_at=seen.calm_at,
                    blind_at=seen.blind_at,
                )
        return draft

    def _judge(self, watch: Watch, answers: Answers | None, draft: _Draft) -> None:
        questions = alert_reading.questions(watch)
        found = alert_reading.read(watch, questions, answers) if answers is not None else alert_reading.Readings()
        self._warn(watch, found.left_out)
        rows: dict[str, Reading | None] = {alert_state.key_of(watch, row.labels): row for row in found.rows}
        for key in draft.keys.get((watch.rule.name, watch.service), ()):
            if key in draft.live and _is_of(watch, draft.live[key]):
                rows.setdefault(key, None)
        for key, reading in rows.items():
            self._move(key, watch, reading, draft)

    def _move(self, key: str, watch: Watch, reading: Reading | None, draft: _Draft) -> None:
        before = draft.live.get(key)
        if before and before.test:
            return
        if before is None and len(draft.live) >= MOST_LIVE:
            draft.refused += reading is not None and reading.holds
            return
        last = None if before or reading is None or not reading.holds else self._last(key)
        after = alert_state.advance(before, last, watch, reading, draft.now_at, draft.next_alert)
        if before is None and after is not None:
            draft.next_alert += 1
        self._put(key, before, after, draft)

    def _put(self, key: str, before: Alert | None, after: Alert | None, draft: _Draft) -> None:
        if after is not None:
            draft.live[key] = after
        elif before is not None:
            del draft.live[key]
            draft.gone.append(before)

    def _last(self, key: str) -> Alert | None:
        resolved = (a for a in reversed(self._records.all_of(Alert)) if a.state is AlertState.RESOLVED)
        return next((alert for alert in resolved if alert.key == key), None)

    def _judge_sight(self, away: bool, draft: _Draft) -> None:
        """Whether the metrics can be asked at all."""
        if UNSEEN.name not in self.policy.off and self.policy.defaults:
            reading = Reading(value=float(away), holds=away, calm=not away)
            self._move(alert_state.key_of(SIGHT, {}), SIGHT, reading, draft)

    def _drop_forgotten(self, draft: _Draft) -> None:
        """Alerts of rules and services that are no more, and tests that have been seen."""
        known = {(watch.rule.name, watch.service) for watch in self.watches()} | {(UNSEEN.name, "")}
        for key, alert in list(draft.live.items()):
            if alert.test:
                after = (
                    replace(alert, state=AlertState.RESOLVED, resolved_at=draft.now_at)
                    if _seen(alert, draft)
                    else alert
                )
            elif (alert.rule, alert.service) in known:
                continue
            else:
                dropped = alert_state.dropped(alert, draft.now_at)
                if dropped is None:
                    self._put(key, alert, None, draft)
                    continue
                after = dropped
            draft.live[key] = after

    def _tell(self, draft: _Draft) -> None:
        silences = self._records.all_of(Silence)
        rules = {watch.rule.name: watch.rule for watch in self.watches()}
        for key, alert in draft.live.items():
            rule = rules.get(alert.rule, UNSEEN)
            silenced = alert_state.silenced(alert, silences, draft.now_at)
            mode = mode_of(rule, ActionKind.PAGE, self.policy)
            told, what = alert_notices.tell(alert, rule, mode, silenced, draft.now_at)
            draft.live[key] = told
            if what:
                draft.puts.append(alert_notices.notice_of(told, what, draft.next_notice, draft.now_at))
                draft.next_notice += 1

    async def _write(self, draft: _Draft) -> None:
        stored = {alert.key: alert for alert in self._records.all_of(Alert) if alert.state is not AlertState.RESOLVED}
        puts = [a for key, a in draft.live.items() if alert_state.worth_writing(stored.get(key), a)]
        old = [a for a in self._records.all_of(Alert) if a.state is AlertState.RESOLVED][:-ALERTS_KEPT]
        over = [s for s in self._records.all_of(Silence) if s.until_at <= draft.now_at]
        await self._records.keep(*puts, *draft.puts, delete=[*draft.gone, *old, *over])
        self._live = {key: a for key, a in draft.live.items() if a.state is not AlertState.RESOLVED}
        for alert in puts:
            _log.info("alert %d is %s: %s", alert.number, alert.state, alert.summary)

    def _warn(self, watch: Watch, left_out: int) -> None:
        """Once for each time that labels grow beyond what is watched."""
        name = _name(watch)
        if left_out and not self._warned.get(name):
            _log.warning(
                "alert rule %s of %s: only the worst %d combinations of labels are watched, %d are not",
                watch.rule.name,
                watch.service or "the system",
                alert_reading.MOST_SERIES,
                left_out,
            )
        self._warned[name] = left_out

    def _warn_of_most(self, draft: _Draft) -> None:
        """Once, until there is room for many again."""
        if draft.refused and not self._full:
            text = (
                "%d alerts are live, and no more are begun (%d would be): take labels with many values out of the rules"
            )
            _log.warning(text, len(draft.live), draft.refused)
        self._full = (self._full and len(draft.live) > MOST_LIVE / 2) or draft.refused > 0

    # For people and programs.

    def now(self) -> list[dict[str, Any]]:
        """What is pending or firing, the worst first, and whether it is silenced."""
        stored = [alert for alert in self._records.all_of(Alert) if alert.state is not AlertState.RESOLVED]
        shown = [replace(self._live.get(alert.key, alert), acked_by=alert.acked_by, why=alert.why) for alert in stored]
        silences, now_at = self._records.all_of(Silence), self._world.time()
        return [
            msgspec.to_builtins(alert) | {"silenced": alert_state.silenced(alert, silences, now_at)}
            for alert in sorted(shown, key=lambda a: (a.state is AlertState.PENDING, a.severity, a.since_at))
        ]

    def history(self, limit: int) -> list[dict[str, Any]]:
        """What is over, newest first."""
        over = [alert for alert in self._records.all_of(Alert) if alert.state is AlertState.RESOLVED]
        return [msgspec.to_builtins(alert) for alert in over[::-1][:limit]]


SIGHT = Watch(rule=UNSEEN)


def _name(watch: Watch) -> Name:
    return (watch.rule.name, watch.service, tuple(sorted(watch.labels.items())))


def _is_of(watch: Watch, alert: Alert) -> bool:
    """Two watches of one rule and service differ in their labels."""
    return all(alert.labels.get(name) == value for name, value in watch.labels.items())


def _seen(alert: Alert, draft: _Draft) -> bool:
    return not 0 <= draft.now_at - alert.fired_at < TEST_S

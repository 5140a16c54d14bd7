"""From recorded metrics to whether a rule holds. `questions` says what has to be asked, `read` what the answers mean;
both are pure. All services are asked about at once, so that a look costs the same for one as for a thousand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from gapless.core.ports import Selection, Series
from gapless.observe.alert_defaults import HELD_S, Watch
from gapless.observe.judge import wilson_lower

MOST_SERIES = 50
"""Alerts of one rule and service: what has more combinations of labels is cut to the worst, and says so."""
SURE_Z = 2.0
"""Standard deviations: the share of errors is above the bound with 97.7 %."""

Labels = tuple[tuple[str, str], ...]
Table = Mapping[Labels, float]
"""One value for each combination of labels."""
Key = tuple[str, Labels, tuple[str, ...], str, float, float]
Answers = Mapping[Key, Mapping[str, Sequence[Series]]]
"""What was answered to each question, by the label `service` ("" without one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one series says. `value` None: nobody knows. `holds`: beyond the bound; `calm`: back beyond `recover`."""

    labels: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None
    bound: float = 0.0
    holds: bool = False
    calm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """`left_out`: series beyond what is watched."""

    rows: tuple[Reading, ...] = ()
    left_out: int = 0


def key_of(selection: Selection) -> Key:
    """Equal for equal questions: a selection has a mapping, and no hash."""
    where = tuple(sorted(selection.where.items()))
    return (selection.metric, where, selection.by, selection.of, selection.q, selection.over_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a rule has to know: the value, what it is divided by, how many events these were, the same over the short
    window and the past; for a rule about absence, what there is now and what there was."""

    value: Selection
    per: Selection | None = None
    events: Selection | None = None
    short: Selection | None = None
    short_per: Selection | None = None
    past: Selection | None = None
    past_per: Selection | None = None

    def all(self) -> list[Selection]:
        every = (self.value, self.per, self.events, self.short, self.short_per, self.past, self.past_per)
        return [each for each in every if each is not None]


def questions(watch: Watch) -> Questions:
    """For all services at once: the answers have the label `service`."""
    rule = watch.rule
    wild = tuple(name for name, value in rule.where.items() if value.endswith("*"))
    exact = {name: value for name, value in rule.where.items() if name not in wild}
    each = ("service",) if rule.each_service else ()
    if rule.absent_s:
        value = Selection(metric=rule.metric, where=exact, by=each, over_s=rule.absent_s)
        return Questions(value=value, past=replace(value, over_s=HELD_S))
    value = Selection(
        metric=rule.metric, where=exact, by=(*each, *rule.by, *wild), of=rule.of, q=rule.q, over_s=rule.over_s
    )
    if not rule.per:
        return Questions(value=value, short=replace(value, over_s=rule.short_s) if rule.short_s else None)
    per = Selection(metric=rule.per, where=rule.per_where, by=(*each, *rule.by), of=rule.of, over_s=rule.over_s)
    return Questions(
        value=value,
        per=per,
        events=replace(per, of="increase") if rule.of in ("rate", "increase") else None,
        short=replace(value, over_s=rule.short_s) if rule.short_s else None,
        short_per=replace(per, over_s=rule.short_s) if rule.short_s else None,
        past=replace(value, over_s=rule.past_s) if rule.past_s else None,
        past_per=replace(per, over_s=rule.past_s) if rule.past_s else None,
    )


def by_service(found: Sequence[Series]) -> dict[str, list[Series]]:
    """So that a rule does not look through those of all services for its own."""
    table: dict[str, list[Series]] = {}
    for series in found:
        table.setdefault(series.labels.get("service", ""), []).append(series)
    return table


def read(watch: Watch, asked: Questions, answers: Answers) -> Readings:
    """What the answers say about one service."""
    if watch.rule.absent_s:
        return _absence(watch, asked, answers)

    def table(selection: Selection | None) -> Table:
        return _table(watch, answers, selection) if selection else {}

    values = _values(table(asked.value), asked.per, table(asked.per))
    short = _values(table(asked.short), asked.short_per, table(asked.short_per))
    past = _values(table(asked.past), asked.past_per, table(asked.past_per))
    events = table(asked.events)
    rows = []
    for labels, value in values.items():
        if asked.past and not past.get(labels):
            continue  # nothing to compare with: nobody knows
        usual = past.get(labels, 1.0) if asked.past else 1.0
        low, high = _interval(value, events.get(labels, 0.0) if asked.events else math.inf)
        also = not asked.short or beyond(watch, short.get(labels, -math.inf), short.get(labels, math.inf))
        rows.append(_reading(watch, dict(labels), value / usual, low / usual, high / usual, also))
    return _cut(watch, rows)


def _reading(watch: Watch, labels: dict[str, str], value: float, low: float, high: float, also: bool) -> Reading:
    rule = watch.rule
    bound = rule.above if rule.above is not None else rule.below or 0.0
    recover = bound if rule.recover is None else rule.recover
    over = value < recover if rule.above is not None else value > recover
    if rule.recover is None:
        over = not (value > bound if rule.above is not None else value < bound)
    holds = beyond(watch, low, high) and also
    return Reading(labels=labels, value=value, bound=bound, holds=holds, calm=(over or not also) and not holds)


def beyond(watch: Watch, low: float, high: float) -> bool:
    """Whether what lies between `low` and `high` is surely on the wrong side."""
    if watch.rule.above is not None:
        return low > watch.rule.above
    return watch.rule.below is not None and high < watch.rule.below


def _interval(value: float, events: float) -> tuple[float, float]:
    """Where the true share lies (Wilson); what is no share of counted events is what it is."""
    if math.isinf(events) or not 0 <= value <= 1:
        return value, value
    if events <= 0:
        return -math.inf, math.inf
    return wilson_lower(value * events, events, SURE_Z), 1 - wilson_lower((1 - value) * events, events, SURE_Z)


def _values(values: Table, per: Selection | None, divisors: Table) -> dict[Labels, float]:
    """Divided, label for label. A counter appears with its first event: what is not there while its divisor is, is
    0."""
    if per is None:
        return dict(values)
    return {labels: values.get(labels, 0.0) / each for labels, each in divisors.items() if each > 0}


def _table(watch: Watch, answers: Answers, selection: Selection) -> dict[Labels, float]:
    """The last points of a service's series; those that only differ in labels with a `*` are put together."""
    rule = watch.rule
    table: dict[Labels, float] = {}
    wild = {name: value[:-1] for name, value in rule.where.items() if value.endswith("*")}
    found = answers.get(key_of(selection), {})
    ours = found.get(watch.service, ()) if rule.each_service else chain.from_iterable(found.values())
    for series in ours:
        labels = dict(series.labels)
        if rule.each_service:
            labels.pop("service", None)
        begins = {name: labels.pop(name, None) for name in wild if name not in rule.by}
        if all(value is None or value.startswith(wild[name]) for name, value in begins.items()):
            key = tuple(sorted(labels.items()))
            table[key] = table.get(key, 0.0) + series.points[-1][1]
    return table


def _absence(watch: Watch, asked: Questions, answers: Answers) -> Readings:
    assert asked.past
    now, before = (_table(watch, answers, each) for each in (asked.value, asked.past))
    rows = [
        Reading(labels=dict(labels), value=0.0, bound=watch.rule.absent_s, holds=labels not in now, calm=labels in now)
        for labels in before
    ]
    return _cut(watch, rows)


def _cut(watch: Watch, rows: list[Reading]) -> Readings:
    if len(rows) <= MOST_SERIES:
        return Readings(rows=tuple(rows))
    sign = -1 if watch.rule.above is not None else 1
    rows.sort(key=lambda row: (not row.holds, sign * (row.value or 0.0)))
    return Readings(rows=tuple(rows[:MOST_SERIES]), left_out=len(rows) - MOST_SERIES)

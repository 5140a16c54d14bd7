"""What an incident is judged by: the changes that may be to blame, from the records, and the series of the metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from gapless.control.records import Records
from gapless.core.model import Change, Rollout, RolloutState, Service
from gapless.core.model.alert import Alert
from gapless.core.model.incident import Incident
from gapless.core.ports import Selection, Series, Signals
from gapless.observe.alert_defaults import ERRORS, GATEWAY, GATEWAY_TOOK, OWN, OWN_TOOK, Watch, counted
from gapless.observe.alert_reading import questions
from gapless.observe.incident_blame import Candidate, Scene, Side, Symptom, reached

LOOK_BACK_S = 7_200.0
"""Changes and series before an incident."""
STEP_S, OVER_S = 15.0, 30.0
MOST_SERVICES = 20
"""The nearest: a system of thousands is not asked about all."""
KINDS = (
    (re.compile(r"experiment"), "experiment"),
    (re.compile(r"configuration of |definition of "), "config"),
    (re.compile(r"scale "), "scale"),
    (re.compile(r"gateway|routes? |weights? |override|fault|mirror|switch"), "gateway"),
    (re.compile(r"deploy |roll "), "rollout"),
)
NO_CAUSE = re.compile(r"alerts? |silence|hot restart|breakers of|\S+ enters with")
"""Changes that touch nothing, or are answers."""
Labels = tuple[tuple[str, str], ...]


def needs_of(records: Records) -> dict[str, tuple[str, ...]]:
    return {service.name: tuple(service.needs) for service in records.services()}


def candidates(records: Records, since_at: float, until_at: float) -> list[Candidate]:
    """One for each rollout, and for each other change; what was done about alerts is no suspect."""
    changes = [c for c in records.changes(2_000)[::-1] if since_at <= c.at <= until_at and _may_do_harm(c)]
    found = [_of_change(change) for change in changes if not change.rollout]
    by_rollout: dict[tuple[str, int], list[Change]] = {}
    for change in changes:
        if change.rollout:
            by_rollout.setdefault((change.service, change.rollout), []).append(change)
    for (service, number), steps in by_rollout.items():
        rollout = next((r for r in records.rollouts(service) if r.number == number), None)
        if rollout is not None and (made := _of_rollout(rollout, steps)):
            found.append(made)
    return found


def _may_do_harm(change: Change) -> bool:
    answer = change.who == "gapless" and change.why.startswith("alert ")
    return not answer and not NO_CAUSE.match(change.what)


def _of_change(change: Change) -> Candidate:
    kind = next((kind for pattern, kind in KINDS if pattern.match(change.what)), "change")
    return Candidate(
        kind=kind, number=change.number, service=change.service, at=change.at, what=change.what, who=change.who
    )


def _of_rollout(rollout: Rollout, steps: Sequence[Change]) -> Candidate | None:
    """Until it was decided against: what came then was the way back."""
    back_at = rollout.decided_at if rollout.winner == rollout.before and rollout.decided_at else float("inf")
    forward = [step for step in steps if step.at < back_at]
    if not forward or not rollout.shifted_at:
        return None  # no user has met it
    shares = [step.numbers["next_weight"] for step in forward if "next_weight" in step.numbers]
    whole = rollout.state is RolloutState.PROMOTED or not shares
    moments = tuple(step.at for step in forward if "next_weight" in step.numbers) or (rollout.shifted_at,)
    return Candidate(
        kind="rollout",
        number=forward[0].number,
        service=rollout.service,
        at=rollout.shifted_at,
        what=f"rollout {rollout.number} of {rollout.service} ({rollout.before} → {rollout.after})",
        who=forward[0].who,
        moments=moments,
        share=1.0 if whole else max(shares),
        newcomer=rollout.after,
        stable=rollout.before,
    )


class Facts:
    """Asks the metrics."""

    def __init__(self, records: Records, signals: Signals) -> None:
        self._records = records
        self._signals = signals

    async def scene(
        self,
        incident: Incident,
        alerts: Sequence[Alert],
        watches: Sequence[Watch],
        suspects: Sequence[Candidate],
        at: float,
    ) -> Scene:
        """Raises SignalsUnavailable."""
        needs = needs_of(self._records)
        since_at, until_at = incident.opened_at - LOOK_BACK_S / 2, at
        symptoms = [
            s for service in self._near(incident, needs) for s in await self._of_service(service, since_at, until_at)
        ]
        symptoms += [s for alert in alerts for s in await self._of_alert(alert, watches, since_at, until_at)]
        sides = {(c.service, c.newcomer): await self._sides(c, until_at) for c in suspects if c.newcomer}
        return Scene(
            alerted=tuple(dict.fromkeys(alert.service for alert in alerts if alert.service)),
            since_at=min((alert.since_at for alert in alerts), default=incident.opened_at),
            needs=needs,
            symptoms=tuple(symptoms),
            sides=sides,
        )

    def _near(self, incident: Incident, needs: Mapping[str, Sequence[str]]) -> list[Service]:
        """The services of an incident, what they need, and who needs them, the nearest first."""
        distance: dict[str, int] = {}
        for name in needs:
            for other in incident.services:
                steps = [reached(a, needs).get(b) for a, b in ((other, name), (name, other))]
                known = [each for each in steps if each is not None]
                if known:
                    distance[name] = min([*known, distance.get(name, 99)])
        names = sorted(distance, key=lambda name: distance[name])[:MOST_SERVICES]
        return [service for name in names if (service := self._records.service(name))]

    async def _of_service(self, service: Service, since_at: float, until_at: float) -> list[Symptom]:
        metric, took = counted(service), GATEWAY_TOOK if counted(service) == GATEWAY else OWN_TOOK
        shares = await self._shares(metric, {"service": service.name}, since_at, until_at)
        where = {"service": service.name}
        asked = Selection(metric=took, where=where, of="quantile", q=0.99, over_s=OVER_S)
        slow = _points(await self._signals.series(asked, since_at, until_at, STEP_S))
        found = [Symptom(service=service.name, kind="share", name="errors", points=shares)] if shares else []
        return found + ([Symptom(service=service.name, kind="seconds", name="p99", points=slow)] if slow else [])

    async def _shares(
        self, metric: str, where: Mapping[str, str], since_at: float, until_at: float
    ) -> tuple[tuple[float, float], ...]:
        """Errors by requests; a moment without requests is left out."""
        asked = Selection(metric=metric, where=where, by=("status",), of="rate", over_s=OVER_S)
        return _shares(await self._signals.series(asked, since_at, until_at, STEP_S))

    async def _of_alert(
        self, alert: Alert, watches: Sequence[Watch], since_at: float, until_at: float
    ) -> list[Symptom]:
        """The series of its own rule, where it is not one of those that are asked for anyway."""
        rule = next((w.rule for w in watches if (w.rule.name, w.service) == (alert.rule, alert.service)), None)
        if rule is None or not rule.metric or rule.metric in (GATEWAY, OWN, GATEWAY_TOOK, OWN_TOOK) or rule.absent_s:
            return []
        asked = questions(Watch(rule=rule, service=alert.service))
        mine = {"service": alert.service} if rule.each_service else {}
        values = _summed(await self._signals.series(asked.value, since_at, until_at, STEP_S), mine)
        if asked.per:
            per = _summed(await self._signals.series(asked.per, since_at, until_at, STEP_S), mine)
            values = {at: values.get(at, 0.0) / each for at, each in per.items() if each > 0}
        sign = 1 if rule.above is not None else -1
        points = tuple((at, sign * value) for at, value in sorted(values.items()))
        return [Symptom(service=alert.service, kind="value", name=rule.name, points=points)] if points else []

    async def _sides(self, candidate: Candidate, until_at: float) -> list[Side]:
        """While both releases served: what each answered."""
        service = self._records.service(candidate.service)
        if service is None:
            return []
        metric, since_at = counted(service), candidate.at
        took = GATEWAY_TOOK if metric == GATEWAY else OWN_TOOK
        new = await self._counts(metric, took, candidate.service, candidate.newcomer, since_at, until_at)
        old = await self._counts(metric, took, candidate.service, candidate.stable, since_at, until_at)
        return [
            Side(
                at=at,
                new_requests=new[at][0],
                new_errors=new[at][1],
                old_requests=old[at][0],
                old_errors=old[at][1],
                new_s=new[at][2],
                old_s=old[at][2],
            )
            for at in sorted(new.keys() & old.keys())
            if new[at][0] > 0 and old[at][0] > 0
        ]

    async def _counts(
        self, metric: str, took: str, service: str, release: str, since_at: float, until_at: float
    ) -> dict[float, tuple[float, float, float]]:
        """By moment: requests, errors, p99."""
        where = {"service": service, "release": release}
        asked = Selection(metric=metric, where=where, by=("status",), of="increase", over_s=STEP_S)
        slow = Selection(metric=took, where=where, of="quantile", q=0.99, over_s=OVER_S)
        p99 = dict(_points(await self._signals.series(slow, since_at, until_at, STEP_S)))
        total: dict[float, list[float]] = {}
        for series in await self._signals.series(asked, since_at, until_at, STEP_S):
            bad = _is_error(series)
            for at, value in series.points:
                row = total.setdefault(at, [0.0, 0.0])
                row[0] += value
                row[1] += value if bad else 0.0
        return {at: (requests, errors, p99.get(at, 0.0)) for at, (requests, errors) in total.items()}

    async def impact(self, incident: Incident, at: float) -> dict[str, float]:
        """What users had of it, so far. Raises SignalsUnavailable."""
        since_at, until_at = incident.onset_at or incident.opened_at, incident.calm_at or at
        over_s = max(until_at - since_at, STEP_S)
        found = {"requests": 0.0, "errors": 0.0, "p99_s": 0.0}
        for name in incident.services:
            service = self._records.service(name)
            if service is None:
                continue
            metric = counted(service)
            asked = Selection(metric=metric, where={"service": name}, by=("status",), of="increase", over_s=over_s)
            for series in await self._signals.latest(asked, until_at):
                found["requests"] += series.points[-1][1]
                found["errors"] += series.points[-1][1] if _is_error(series) else 0.0
            took = Selection(
                metric=GATEWAY_TOOK if metric == GATEWAY else OWN_TOOK,
                where={"service": name},
                of="quantile",
                over_s=60.0,
            )
            slow = _points(await self._signals.series(took, since_at, until_at, STEP_S))
            found["p99_s"] = max([found["p99_s"], *(value for _, value in slow)])
        return {name: round(value, 4) for name, value in found.items()}


def _is_error(series: Series) -> bool:
    return series.labels.get("status", "").startswith(ERRORS["status"].rstrip("*"))


def _points(found: Iterable[Series]) -> tuple[tuple[float, float], ...]:
    return next((series.points for series in found), ())


def _shares(found: Iterable[Series]) -> tuple[tuple[float, float], ...]:
    total: dict[float, list[float]] = {}
    for series in found:
        for at, value in series.points:
            row = total.setdefault(at, [0.0, 0.0])
            row[0] += value
            row[1] += value if _is_error(series) else 0.0
    return tuple((at, errors / requests) for at, (requests, errors) in sorted(total.items()) if requests > 0)


def _summed(found: Iterable[Series], mine: Mapping[str, str]) -> dict[float, float]:
    total: dict[float, float] = {}
    for series in found:
        if all(series.labels.get(name) == value for name, value in mine.items()):
            for at, value in series.points:
                total[at] = total.get(at, 0.0) + value
    return total

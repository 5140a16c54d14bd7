"""Keeps incidents: opens and closes them, weighs who is to blame, and tells of both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from gapless.control.incident_facts import LOOK_BACK_S, Facts, candidates, needs_of
from gapless.control.records import Records
from gapless.core.errors import SignalsUnavailable, UnknownName
from gapless.core.model.alert import Action, Alert, AlertState, Silence
from gapless.core.model.incident import Incident, TimelineEntry
from gapless.core.model.notice import Notice, Topic
from gapless.core.ports import Signals, World
from gapless.observe import incident_group, incident_report
from gapless.observe.alert_defaults import Watch
from gapless.observe.alert_state import silenced
from gapless.observe.incident_blame import blame

_log = logging.getLogger("gapless.incidents")

KEPT = 200


class Incidents:
    """`step` is one look at all alerts."""

    def __init__(
        self, system: str, records: Records, signals: Signals, watches: Callable[[], list[Watch]], world: World
    ) -> None:
        self._system = system
        self._records = records
        self._facts = Facts(records, signals)
        self._watches = watches
        self._world = world

    async def step(self) -> None:
        now_at = self._world.time()
        before = {each.number: each for each in self._records.all_of(Incident) if each.state == "open"}
        alerts = self._alerts(before, now_at)
        number = self._records.next_number(Incident)
        after = incident_group.grouped(list(before.values()), alerts, needs_of(self._records), number, now_at)
        for incident in after:
            known = before.get(incident.number)
            if incident_group.blame_due(incident, now_at):
                incident = await self._weighed(incident, now_at)
            if incident != known:
                await self._write(known, incident)

    def _alerts(self, open_now: dict[int, Incident], now_at: float) -> list[Alert]:
        """Those that count: what is silenced opens nothing, but stays where it is."""
        silences, theirs = self._records.all_of(Silence), {n for each in open_now.values() for n in each.alerts}
        return [
            alert
            for alert in self._records.all_of(Alert)
            if not alert.test
            and alert.state is not AlertState.PENDING
            and (alert.number in theirs or not silenced(alert, silences, now_at))
        ]

    async def _weighed(self, incident: Incident, now_at: float) -> Incident:
        """With its suspects and its impact, as far as the metrics can be asked."""
        alerts = [alert for n in incident.alerts if (alert := self._records.numbered(Alert, n))]
        suspects = candidates(self._records, incident.opened_at - LOOK_BACK_S, now_at)
        try:
            scene = await self._facts.scene(incident, alerts, self._watches(), suspects, now_at)
            onset_at = scene.onset_at if scene.symptoms else incident.onset_at
            impact = await self._facts.impact(replace(incident, onset_at=onset_at), now_at)
        except SignalsUnavailable as error:
            _log.debug("incident %d: %s", incident.number, error)
            return replace(incident, blamed_at=now_at)
        found = blame(scene, suspects)
        return replace(incident, suspects=found, onset_at=onset_at, impact=impact, blamed_at=now_at)

    async def _write(self, before: Incident | None, incident: Incident) -> None:
        what = "opened" if before is None else "closed" if incident.state == "closed" else ""
        puts: list[Any] = [incident]
        if what:
            puts.append(self._notice(incident, what))
        old = [each for each in self._records.all_of(Incident) if each.state == "closed"][:-KEPT]
        await self._records.keep(*puts, delete=old)
        if what:
            _log.info("incident %d is %s: %s", incident.number, what, incident.title)

    def _notice(self, incident: Incident, what: str) -> Notice:
        suspect = incident.suspects[0] if incident.suspects else None
        blamed = f"probably {suspect.what} ({suspect.probability:.0%})" if suspect and suspect.probability > 0.3 else ""
        return Notice(
            number=self._records.next_number(Notice),
            at=self._world.time(),
            topic=Topic.INCIDENTS,
            title=f"incident {incident.number} {what}: {incident.title}",
            text=". ".join(text for text in (blamed, f"gapless incident {incident.number}") if text),
            service=incident.services[0] if incident.services else "",
            severity=incident.severity,
            state=what,
            about=incident.number,
            numbers=incident.impact,
        )

    # For people and programs.

    def all(self, limit: int = 50) -> list[dict[str, Any]]:
        """Newest first."""
        return [msgspec.to_builtins(each) for each in self._records.all_of(Incident)[::-1][:limit]]

    def one(self, number: int) -> dict[str, Any]:
        """With its time line. Raises UnknownName."""
        incident = self._known(number)
        entries = [msgspec.to_builtins(entry) for entry in self._timeline(incident)]
        shown: dict[str, Any] = msgspec.to_builtins(incident)
        return {**shown, "timeline": entries, "actions": self._actions(incident)}

    def export(self, number: int) -> str:
        """The draft of a post-mortem, in Markdown. Raises UnknownName."""
        incident = self._known(number)
        actions = [action for action in self._records.all_of(Action) if action.alert in incident.alerts]
        return incident_report.post_mortem(incident, self._timeline(incident), actions, self._system)

    def _known(self, number: int) -> Incident:
        incident = self._records.numbered(Incident, number)
        if incident is None:
            raise UnknownName(f"there is no incident {number}", "See `gapless incidents`.")
        return incident

    def _timeline(self, incident: Incident) -> list[TimelineEntry]:
        records = self._records
        return incident_report.timeline(
            incident, records.all_of(Alert), records.changes(2_000), records.all_of(Action), self._world.time()
        )

    def _actions(self, incident: Incident) -> list[Any]:
        found = [action for action in self._records.all_of(Action) if action.alert in incident.alerts]
        return [msgspec.to_builtins(action) for action in found]

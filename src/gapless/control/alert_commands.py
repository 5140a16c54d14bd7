"""The verbs of `gapless alert`, one method each: acknowledge, silence, try. Each is in the change log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gapless.control.commands import Author
from gapless.control.records import Records, persist
from gapless.core.errors import InvalidTransition, UnknownName
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import Change
from gapless.core.model.alert import Alert, AlertState, Severity, Silence
from gapless.core.ports import World

LONGEST_S = 30 * 24 * 3600.0
"""A silence for longer is a rule that should go."""


class AlertCommands:
    """Acts on the records; the alerter sees it at its next look."""

    def __init__(self, records: Records, world: World, events: Events) -> None:
        self._records = records
        self._world = world
        self._events = events

    async def ack(self, number: int, author: Author) -> Alert:
        """Somebody looks after it: nobody is paged about it any more. Raises UnknownName, InvalidTransition."""

        async def write() -> Alert:
            alert = self._known(number)
            if alert.state is not AlertState.FIRING:
                raise InvalidTransition(f"alert {number} is {alert.state}", "See `gapless alerts` for those that fire.")
            acked = replace(alert, acked_by=author.who, acked_at=self._world.time(), why=author.why)
            await self._commit(author, f"alert {number} acknowledged: {alert.summary}", alert.service, acked)
            return acked

        return await persist(write)

    async def silence(
        self, rule: str, service: str, labels: Mapping[str, str], for_s: float, author: Author
    ) -> Silence:
        """Nobody is told of what matches, and nothing is done about it, for so long. Raises InvalidTransition."""
        if not 0 < for_s <= LONGEST_S:
            raise InvalidTransition(f"a silence of {for_s:g} s", "Give --for, at most 720h: --for 2h.")
        if not author.why:
            raise InvalidTransition("a silence without a reason", "Say why by --why: others will wonder.")

        async def write() -> Silence:
            now_at = self._world.time()
            silence = Silence(
                number=self._records.next_number(Silence),
                rule=rule,
                service=service,
                labels=labels,
                since_at=now_at,
                until_at=now_at + for_s,
                who=author.who,
                why=author.why,
            )
            what = f"alerts silenced for {for_s / 3600:.3g} h: {described(silence)}"
            await self._commit(author, what, service, silence)
            return silence

        return await persist(write)

    async def unsilence(self, number: int, author: Author) -> Silence:
        """Raises UnknownName."""

        async def write() -> Silence:
            silence = self._records.numbered(Silence, number)
            if silence is None:
                raise UnknownName(f"there is no silence {number}", "See `gapless alerts`.")
            change = self._change(author, f"silence {number} ended: {described(silence)}", silence.service)
            await self._records.write(change, delete=[silence])
            self._events(ChangeRecorded(change=change))
            return silence

        return await persist(write)

    async def test(self, service: str, severity: Severity, labels: Mapping[str, str], author: Author) -> Alert:
        """Fire an alert that says that it is a test; it is over after a minute. Nothing is done about it."""

        async def write() -> Alert:
            now_at, number = self._world.time(), self._records.next_number(Alert)
            alert = Alert(
                number=number,
                key=f"test/{number}",
                rule="test",
                service=service,
                labels=labels,
                severity=severity,
                summary=f"this is a test by {author.who}",
                state=AlertState.FIRING,
                since_at=now_at,
                seen_at=now_at,
                fired_at=now_at,
                test=True,
            )
            await self._commit(author, f"alert {number} fired as a test", service, alert)
            return alert

        return await persist(write)

    def _known(self, number: int) -> Alert:
        alert = self._records.numbered(Alert, number)
        if alert is None:
            raise UnknownName(f"there is no alert {number}", "See `gapless alerts --history`.")
        return alert

    def _change(self, author: Author, what: str, service: str) -> Change:
        return Change(
            number=self._records.next_change(),
            at=self._world.time(),
            who=author.who,
            what=what,
            service=service,
            why=author.why,
            ticket=author.ticket,
        )

    async def _commit(self, author: Author, what: str, service: str, *values: object) -> None:
        change = self._change(author, what, service)
        await self._records.write(change, *values)
        self._events(ChangeRecorded(change=change))


def described(silence: Silence) -> str:
    """What it is for."""
    labels = " ".join(f"{name}={value}" for name, value in sorted(silence.labels.items()))
    parts = [silence.rule and f"rule {silence.rule}", silence.service and f"service {silence.service}", labels]
    return ", ".join(part for part in parts if part) or "all of them"

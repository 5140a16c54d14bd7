"""The verbs that concern the gateway itself: its restart, and faults that are injected into requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gapless.control.commands import Author
from gapless.control.gateway import Gateway
from gapless.control.records import Records, persist
from gapless.core.errors import InvalidTransition, UnknownName
from gapless.core.events import ChangeRecorded, Events
from gapless.core.model import Change, Fault
from gapless.core.model.gateway import FAULTS_FOR_S
from gapless.core.ports import World

NOBODY = Author(who="gapless", why="its time was over")


class GateCommands:
    """One method for each verb."""

    def __init__(self, records: Records, gateway: Gateway, world: World, events: Events) -> None:
        self._records = records
        self._gateway = gateway
        self._world = world
        self._events = events

    async def details(self) -> dict[str, Any]:
        """What `gapless gateway status` shows."""
        return await self._gateway.details()

    async def restart(self, binary: Path | None, author: Author) -> dict[str, Any]:
        """Hot restart. Raises what `Gateway.renew` raises; then nothing is changed or recorded."""
        before = await self._gateway.details()
        await self._gateway.renew(binary)
        after = await self._gateway.details()
        what = f"the gateway restarted: Envoy {before['version']} (pid {before['pid']}) → "
        await self._write(author, f"{what}{after['version']} (pid {after['pid']})", "")
        return after

    def faults(self) -> list[Fault]:
        """Those in force, by service."""
        return self._records.faults(self._world.time())

    async def inject(self, fault: Fault, author: Author) -> Fault:
        """Replaces the service's fault, if it has one. Raises UnknownName, InvalidTransition."""
        self._known(fault.service)
        _check(fault, self._world.time())
        await self._write(author, f"fault of {fault.service}: {said(fault, self._world.time())}", fault.service, fault)
        return fault

    async def clear(self, service: str, author: Author) -> None:
        """Raises UnknownName when there is none."""
        self._known(service)
        fault = next((each for each in self.faults() if each.service == service), None)
        if fault is None:
            raise UnknownName(f"{service} has no fault", "`gapless fault` lists those in force.")
        await self._write(author, f"the fault of {service} is ended", service, delete=[fault])

    async def tidy(self) -> None:
        """Faults that are over have ended by themselves; here they leave the records."""
        over = [each for each in self._records.faults() if each.until_at <= self._world.time()]
        for fault in over:
            await self._write(NOBODY, f"the fault of {fault.service} has ended", fault.service, delete=[fault])

    def _known(self, name: str) -> None:
        if self._records.service(name) is None:
            names = ", ".join(s.name for s in self._records.services()) or "none"
            raise UnknownName(f"there is no service {name!r}", f"The services are: {names}.")

    async def _write(
        self, author: Author, what: str, service: str, *values: Any, delete: list[Any] | None = None
    ) -> None:
        async def write() -> Change:
            change = Change(
                number=self._records.next_change(),
                at=self._world.time(),
                who=author.who,
                what=what,
                service=service,
                why=author.why,
                ticket=author.ticket,
            )
            await self._records.write(change, *values, delete=delete or ())
            return change

        self._events(ChangeRecorded(change=await persist(write)))


def _check(fault: Fault, now_at: float) -> None:
    """Raises InvalidTransition."""
    if not fault.delay_s and not fault.abort:
        raise InvalidTransition("a fault delays or aborts", "Give for instance --delay 200ms, or --abort 503.")
    if fault.abort and not 200 <= fault.abort <= 599:
        raise InvalidTransition(f"{fault.abort} is no status", "Give one from 200 to 599, such as --abort 503.")
    if not 0 < fault.share <= 100:
        raise InvalidTransition(f"a share of {fault.share:g} %", "Give more than 0 % and at most 100 %.")
    if not 0 < fault.until_at - now_at <= FAULTS_FOR_S:
        raise InvalidTransition(
            f"a fault lasts at most {FAULTS_FOR_S / 60:g} minutes, so that nobody forgets it", "Give --for 5m."
        )


def said(fault: Fault, now_at: float) -> str:
    """For people."""
    acts = [f"delay {fault.delay_s * 1000:g} ms"] if fault.delay_s else []
    acts += [f"abort with {fault.abort}"] if fault.abort else []
    where = f" that have {fault.header}" if fault.header else ""
    return f"{' and '.join(acts)} for {fault.share:g} % of the requests{where}, {fault.until_at - now_at:.0f} s"

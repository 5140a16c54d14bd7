"""Keeps the instances of the system in the registry, in step with their phases: in it as soon as they are recorded,
passing only while they are ready, gone with them. Rows that others registered are theirs and stay."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from msgspec import structs

from gapless.control.records import Records
from gapless.core.errors import GaplessError
from gapless.core.model import Instance, Phase, RouteTable
from gapless.core.ports import Traffic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Check, Node, Status
from gapless.discovery.catalog.values import Instance as Registered

OWNER = "gapless-system"
"""The meta key that tells our rows from others'."""

_log = logging.getLogger("gapless.control")

Row = tuple[Registered, Check]


def row_of(instance: Instance, system: str, zone: str, node: str) -> Row:
    """How the registry shows an instance, and its one check: the phase that the control plane knows it in."""
    zone = instance.zone or zone
    meta = {"version": instance.release, OWNER: system, **({"zone": zone} if zone else {})}
    registered = Registered(
        service=instance.service,
        id=instance.id,
        tags=(instance.release,),
        address=instance.address.host,
        port=instance.address.port,
        meta=meta,
    )
    check = Check(
        node=node,
        id=f"service:{instance.id}",
        name=f"Service '{instance.service}' check",
        status=Status.PASSING if instance.phase is Phase.READY else Status.CRITICAL,
        output=f"{instance.phase}: {head}" if (head := instance.detail.partition("\n")[0]) else str(instance.phase),
        service_id=instance.id,
        type="gapless",
    )
    return registered, check


def rows_of(instances: Iterable[Instance], system: str, zone: str, node: str) -> dict[str, Row]:
    """What shall be in the registry, by id: everything but what has ended."""
    live = (instance for instance in instances if instance.phase is not Phase.STOPPED)
    return {instance.id: row_of(instance, system, zone, node) for instance in live}


class Registrar:
    """`step` is one look: what differs is written."""

    def __init__(self, records: Records, catalog: Catalog, system: str, zone: str) -> None:
        self._records, self._catalog = records, catalog
        self._system, self._zone = system, zone
        self._turn = asyncio.Lock()

    async def step(self) -> None:
        """Raises what the store raises."""
        async with self._turn:
            await self._write(rows_of(self._records.instances(), self._system, self._zone, self._catalog.name))

    async def leave(self) -> None:
        """The system is about to end: nothing of it is passing any more. Raises what the store raises."""
        async with self._turn:
            for instance in self._records.instances():
                registered, check = row_of(instance, self._system, self._zone, self._catalog.name)
                if self._catalog.instance(instance.id):
                    await self._put(registered, _ending(check))

    async def _write(self, wanted: Mapping[str, Row]) -> None:
        # First what must not be asked any more, then what may: capacity is never overstated.
        for name in self._ours() - wanted.keys():
            await self._catalog.remove(self._catalog.name, instance=name)
        for registered, check in sorted(wanted.values(), key=lambda row: row[1].status == Status.PASSING):
            if self._differs(registered, check):
                await self._put(registered, check)

    async def _put(self, registered: Registered, check: Check) -> None:
        await self._catalog.put(Node(name=self._catalog.name), registered, [check], keep_node=True)

    def _ours(self) -> set[str]:
        rows = self._catalog.instances_on(self._catalog.name)
        return {row.instance.id for row in rows if row.instance.meta.get(OWNER) == self._system}

    def _differs(self, registered: Registered, check: Check) -> bool:
        found, told = self._catalog.instance(registered.id), self._catalog.check(check.id)
        if found is None or told is None:
            return True
        # Callers' complaints show in what is shown, and are not ours to put right.
        stored = self._catalog.view.stored(found.row).instance
        return stored != registered or (told.check.status, told.check.output) != (check.status, check.output)


def _ending(check: Check) -> Check:
    return structs.replace(check, status=Status.CRITICAL, output="the system is being taken down")


class RegistryFirst:
    """A data plane that is told after the registry: whoever finds instances there leaves one before the gateway does,
    and long before it is asked to end."""

    def __init__(self, traffic: Traffic, registrar: Registrar) -> None:
        self._traffic, self._registrar = traffic, registrar

    async def apply(self, table: RouteTable) -> int:
        """As `Traffic.apply`."""
        try:
            await self._registrar.step()
        except GaplessError as error:
            # Requests do not wait for the registry; its own loop tries again.
            _log.warning("the registry could not be told of the newest instances: %s", error)
        return await self._traffic.apply(table)

"""Records to route table: who may be asked for what. Pure; `Tables` remembers what it made, because most of a table is
the same from one change to the next, and everything behind it is quick to see that by identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from operator import is_, is_not
from types import MappingProxyType
from typing import NamedTuple

from gapless.core.model import Endpoint, Fault, Instance, Phase, RouteTable, Service, ServiceTable, Split
from gapless.core.model.alert import Forced
from gapless.core.model.mirror import MirrorTarget

NOBODY: Mapping[str, MirrorTarget] = MappingProxyType({})


class _Made(NamedTuple):
    """A service's part of a table, and the records that it was made of."""

    service: Service
    split: Split
    fault: Fault | None
    mirror: MirrorTarget | None
    instances: Sequence[Instance]
    table: ServiceTable


class _Records(NamedTuple):
    """What a table is made of."""

    services: tuple[Service, ...]
    splits: tuple[Split, ...]
    instances: tuple[Instance, ...]
    faults: Mapping[str, Fault]
    mirrors: Mapping[str, MirrorTarget]

    def since(self, before: _Records | None) -> set[str] | None:
        """The services whose splits and instances are not the very same; None when there is more to it. Most often
        there is not, and of a thousand services one is told without a look at the others."""
        if before is None or self.faults or self.mirrors or before.faults or before.mirrors:
            return None
        same = len(before.services) == len(self.services) and all(map(is_, before.services, self.services))
        splits, instances = _others(before.splits, self.splits), _others(before.instances, self.instances)
        return None if not same or splits is None or instances is None else splits | instances


class Tables:
    """Makes one table after the other."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}
        self._records: _Records | None = None

    def table(
        self,
        services: Iterable[Service],
        splits: Iterable[Split],
        instances: Iterable[Instance],
        version: int,
        faults: Iterable[Fault] = (),
        mirrors: Mapping[str, MirrorTarget] = NOBODY,
    ) -> RouteTable:
        """At the store's revision `version`. A service without a split has no release yet and is left out."""
        fault_of = {fault.service: fault for fault in faults}
        found = _Records(tuple(services), tuple(splits), tuple(instances), fault_of, mirrors)
        changed = found.since(self._records)
        self._records = found
        split_of = {split.service: split for split in found.splits if changed is None or split.service in changed}
        named = {s.name: (s, split_of[s.name]) for s in found.services if s.name in split_of}
        made = self._services(named, found)
        self._made = made if changed is None else self._made | made
        return RouteTable(version=version, services=tuple([made.table for made in self._made.values()]))

    def _services(self, named: Mapping[str, tuple[Service, Split]], found: _Records) -> dict[str, _Made]:
        of_service: dict[str, list[Instance]] = {name: [] for name in named}
        for instance in found.instances:
            if instance.service in of_service:
                of_service[instance.service].append(instance)
        return {
            name: self._service(service, split, found.faults.get(name), found.mirrors.get(name), of_service[name])
            for name, (service, split) in named.items()
        }

    def _service(
        self,
        service: Service,
        split: Split,
        fault: Fault | None,
        mirror: MirrorTarget | None,
        instances: Sequence[Instance],
    ) -> _Made:
        known = self._made.get(service.name)
        if known and _same(known, service, split, fault, mirror, instances):
            return known
        table = _service_table(service, split, fault, mirror, instances)
        # An instance that is only looked at, or has ended long since, changes nothing for those who ask.
        if known and known.table == table:
            table = known.table
        return _Made(service, split, fault, mirror, instances, table)


def _others(before: Sequence[Split | Instance], after: Sequence[Split | Instance]) -> set[str] | None:
    """The services of those that are not the very same; None when some came, went or moved."""
    if len(before) != len(after):
        return None
    pairs = list(compress(zip(before, after, strict=True), map(is_not, before, after)))
    return {old.service for old, _ in pairs} if all(old.service == new.service for old, new in pairs) else None


def _same(
    made: _Made,
    service: Service,
    split: Split,
    fault: Fault | None,
    mirror: MirrorTarget | None,
    instances: Sequence[Instance],
) -> bool:
    return (
        made.service is service
        and made.split is split
        and (made.fault, made.mirror) == (fault, mirror)
        and made.instances == instances  # quick where they are the very same
    )


def with_forced(table: RouteTable, forced: Iterable[Forced]) -> RouteTable:
    """The table that also tells instances which breakers they hold open."""
    by_service: dict[str, list[Forced]] = {}
    for each in forced:
        by_service.setdefault(each.service, []).append(each)
    services = tuple(
        replace(each, forced=tuple(by_service[each.service])) if each.service in by_service else each
        for each in table.services
    )
    return replace(table, services=services) if by_service else table


def _service_table(
    service: Service,
    split: Split,
    fault: Fault | None,
    mirror: MirrorTarget | None,
    instances: Sequence[Instance],
) -> ServiceTable:
    by_release = _by_release(split, instances)
    endpoints = [e for release in sorted(by_release) for e in _endpoints(by_release[release])]
    return ServiceTable(
        service=service.name,
        split=split,
        endpoints=tuple(endpoints),
        routes=service.routes if split.entered else (),
        timeout_s=service.timeout_s,
        protect=service.protect,
        upstream=service.upstream,
        cors=service.cors,
        exceptions=service.rollout.exceptions,
        fault=fault,
        mirror=mirror,
    )


def _by_release(split: Split, instances: Sequence[Instance]) -> Mapping[str, list[Instance]]:
    found: dict[str, list[Instance]] = {release: [] for release, _ in split.weights}
    found.setdefault(split.stable, [])
    for instance in instances:
        if instance.phase is not Phase.STOPPED:
            found.setdefault(instance.release, []).append(instance)
    return found


def _endpoints(instances: list[Instance]) -> list[Endpoint]:
    """The ready ones; where a release has none, the unready ones: they may still answer, nobody else can."""
    ready = [i for i in instances if i.phase is Phase.READY]
    chosen = ready or [i for i in instances if i.phase is Phase.UNREADY]
    return [
        Endpoint(instance=i.id, release=i.release, address=i.address, zone=i.zone)
        for i in sorted(chosen, key=lambda i: i.id)
    ]

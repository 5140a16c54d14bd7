"""Records to route table: who may be asked for what. Pure; `Tables` remembers what it made, because most of a table is
the same from one change to the next, and everything behind it is quick to see that by identity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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


class Tables:
    """Makes one table after the other."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}

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
        split_of = {split.service: split for split in splits}
        fault_of = {fault.service: fault for fault in faults}
        of_service: dict[str, list[Instance]] = defaultdict(list)
        for instance in instances:
            of_service[instance.service].append(instance)
        self._made = {
            s.name: self._service(s, split_of[s.name], fault_of.get(s.name), mirrors.get(s.name), of_service[s.name])
            for s in services
            if s.name in split_of
        }
        return RouteTable(version=version, services=tuple(made.table for made in self._made.values()))

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


def route_table(
    services: Iterable[Service],
    splits: Iterable[Split],
    instances: Iterable[Instance],
    version: int,
    mirrors: Mapping[str, MirrorTarget] = NOBODY,
) -> RouteTable:
    """One table, from nothing."""
    return Tables().table(services, splits, instances, version, (), mirrors)


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

"""Records to route table: who may be asked for what, as a pure function."""

from __future__ import annotations

from collections.abc import Iterable

from gapless.core.model import Endpoint, Instance, Phase, RouteTable, Service, ServiceTable, Split


def route_table(
    services: Iterable[Service], splits: Iterable[Split], instances: Iterable[Instance], version: int
) -> RouteTable:
    """The table at the store's revision `version`. A service without a split has no release yet and is left out."""
    split_of = {split.service: split for split in splits}
    all_instances = list(instances)
    tables = [
        _service_table(service, split_of[service.name], [i for i in all_instances if i.service == service.name])
        for service in services
        if service.name in split_of
    ]
    return RouteTable(version=version, services=tuple(tables))


def _service_table(service: Service, split: Split, instances: list[Instance]) -> ServiceTable:
    named = list(dict.fromkeys([release for release, _ in split.weights] + [split.stable]))
    present = {i.release for i in instances if i.phase is not Phase.STOPPED} | set(named)
    endpoints = [e for release in sorted(present) for e in _endpoints([i for i in instances if i.release == release])]
    return ServiceTable(
        service=service.name,
        split=split,
        endpoints=tuple(endpoints),
        routes=service.routes,
        timeout_s=service.timeout_s,
        protect=service.protect,
    )


def _endpoints(instances: list[Instance]) -> list[Endpoint]:
    """The ready ones; where a release has none, the unready ones: they may still answer, nobody else can."""
    ready = [i for i in instances if i.phase is Phase.READY]
    chosen = ready or [i for i in instances if i.phase is Phase.UNREADY]
    return [Endpoint(instance=i.id, release=i.release, address=i.address) for i in sorted(chosen, key=lambda i: i.id)]

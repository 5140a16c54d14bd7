"""A route table as Envoy's resources, as plain dicts: pure, so that what Envoy is told can be tested without it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gapless.core.model import Entrance, RouteTable, ServiceTable
from gapless.gateway.envoy import faults, weights
from gapless.gateway.envoy.clusters import cluster, cluster_name, load, mark_of
from gapless.gateway.envoy.limits import breaker_of
from gapless.gateway.envoy.listener import NAME, listeners
from gapless.gateway.envoy.mirror import shadows, with_mirrors
from gapless.gateway.envoy.parts import Parts
from gapless.gateway.envoy.routes import route_configuration
from gapless.gateway.envoy.secrets import Pair, secrets
from gapless.gateway.shares import releases

Json = dict[str, Any]

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LOAD = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

SECRETS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"

ORDER = (CLUSTER, LOAD, LISTENER, SECRETS, ROUTES, RUNTIME)
"""Additions go in this order, so that nothing leads to what is not there yet; removals the other way. The runtime comes
last: new routes have their weights in them, and old ones need those that they have until they are gone. (A new Envoy
asks for it first, and is told at once: `delta`.)"""


@dataclass(frozen=True, slots=True)
class Resources:
    """All that Envoy is told: type URL → name → message as a dict in protobuf's JSON form. The routes are without the
    weights that are drawn by, which are in the runtime (`weights.whole` puts them in)."""

    by_type: dict[str, dict[str, Json]]
    until_at: float = 0.0
    """When Envoy shall forget the faults; 0: never."""
    zoned: dict[str, dict[str, Json]] = field(default_factory=dict)
    """Zone of gateways elsewhere → their load assignments: each asks those who are near it first."""

    def __getitem__(self, type_url: str) -> dict[str, Json]:
        return self.by_type[type_url]


def resources(
    table: RouteTable,
    entrance: Entrance,
    pairs: Sequence[Pair] = (),
    parts: Parts | None = None,
    zones: Iterable[str] = (),
) -> Resources:
    """The same table gives the same resources, whatever was there before; quickly, with the `parts` of before.
    `zones`: in which gateways elsewhere are."""
    parts = parts or Parts()
    parts.begin(table)
    shadow_clusters, shadow_loads = shadows(table)
    clusters = _with(parts.merged(table, "clusters", _clusters), shadow_clusters)
    zoned = {
        zone: _with(parts.merged(table, ("loads", zone), partial(_loads, zone)), shadow_loads)
        for zone in {*zones, entrance.zone}
    }
    loads = zoned.pop(entrance.zone)
    routes = {NAME: parts.same("routes", with_mirrors(route_configuration(table, parts), table))}
    now = [service.fault for service in table.services if service.fault]
    drawn = parts.merged(table, "weights", weights.weights_of)
    runtime = {faults.LAYER: faults.runtime(now), weights.LAYER: parts.same("weights", weights.layer(drawn))}
    entry = {LISTENER: listeners(entrance), SECRETS: secrets(pairs), RUNTIME: runtime}
    return Resources({CLUSTER: clusters, LOAD: loads, **entry, ROUTES: routes}, faults.until(now), zoned)


def _with(named: dict[str, Json], more: dict[str, Json]) -> dict[str, Json]:
    return named | more if more else named


def _clusters(service: ServiceTable) -> dict[str, Json]:
    mark, breaker = mark_of(service), breaker_of(service)
    names = [cluster_name(service.service, release, mark) for release in releases(service)]
    return {name: cluster(name, breaker, service.upstream) for name in names}


def _loads(zone: str, service: ServiceTable) -> dict[str, Json]:
    mark = mark_of(service)
    found: dict[str, Json] = {}
    for release in releases(service):
        name = cluster_name(service.service, release, mark)
        found[name] = load(name, [e for e in service.endpoints if e.release == release], zone)
    return found


def joined_load(before: Json, after: Json) -> Json:
    """A load assignment with the endpoints of both: while the routes move, those of the table before still answer."""
    if not before.get("endpoints"):
        return after
    known = {_place(e) for locality in after.get("endpoints", ()) for e in locality["lb_endpoints"]}
    leaving = [_without(locality, known) for locality in before["endpoints"]]
    merged = _merged([*after.get("endpoints", ()), *(locality for locality in leaving if locality["lb_endpoints"])])
    return {"cluster_name": after["cluster_name"], "endpoints": merged}


def _merged(localities: list[Json]) -> list[Json]:
    """One entry for each zone, the first one's priority; in order of priority, which has no gaps."""
    found: dict[str, Json] = {}
    for each in localities:
        zone = each["locality"]["zone"]
        now = found.get(zone)
        both = [*now["lb_endpoints"], *each["lb_endpoints"]] if now else each["lb_endpoints"]
        found[zone] = {**(now or each), "lb_endpoints": sorted(both, key=_place)}
    least = min((each.get("priority", 0) for each in found.values()), default=0)
    return [{**each, "priority": each["priority"] - least} if least else each for each in found.values()]


def _without(locality: Json, known: set[tuple[str, int]]) -> Json:
    return {**locality, "lb_endpoints": [e for e in locality["lb_endpoints"] if _place(e) not in known]}


def _place(endpoint: Json) -> tuple[str, int]:
    address = endpoint["endpoint"]["address"]["socket_address"]
    return address["address"], address["port_value"]


def stages(before: Resources | None, after: Resources) -> tuple[Resources, ...]:
    """What Envoy is told, one after the other. When routes and endpoints change together, the endpoints that leave stay
    until the routes have moved: a release may lose its last instance in the same table that gives its users away."""
    if before is None or before[LOAD] is after[LOAD] or _leads(before) == _leads(after):
        return (after,)
    loads = _joined(before[LOAD], after[LOAD])
    if loads == after[LOAD]:
        return (after,)
    zoned = {zone: _joined(before.zoned.get(zone, before[LOAD]), new) for zone, new in after.zoned.items()}
    return replace(after, by_type={**after.by_type, LOAD: loads}, zoned=zoned), after


def _leads(told: Resources) -> tuple[Json, Json]:
    """What decides where requests go."""
    return told[ROUTES], told[RUNTIME][weights.LAYER]


def _joined(before: dict[str, Json], after: dict[str, Json]) -> dict[str, Json]:
    return {
        name: joined_load(before[name], new) if name in before and before[name] is not new else new
        for name, new in after.items()
    }

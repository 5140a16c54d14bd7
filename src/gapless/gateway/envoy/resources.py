"""A route table as Envoy's resources, as plain dicts: pure, so that what Envoy is told can be tested without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gapless.core.model import Address, RouteTable
from gapless.gateway.envoy.clusters import cluster, cluster_name, load
from gapless.gateway.envoy.limits import breaker_mark, breaker_of
from gapless.gateway.envoy.listener import NAME, listener
from gapless.gateway.envoy.routes import route_configuration
from gapless.gateway.shares import releases

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LOAD = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

ORDER = (CLUSTER, LOAD, LISTENER, ROUTES)
"""Additions go in this order, so that nothing leads to what is not there yet; removals the other way."""


@dataclass(frozen=True, slots=True)
class Resources:
    """All that Envoy is told: type URL → name → message as a dict in protobuf's JSON form."""

    by_type: dict[str, dict[str, dict[str, Any]]]

    def __getitem__(self, type_url: str) -> dict[str, dict[str, Any]]:
        return self.by_type[type_url]


def resources(table: RouteTable, listen: Address) -> Resources:
    """The same table gives the same resources, whatever was there before."""
    clusters: dict[str, dict[str, Any]] = {}
    loads: dict[str, dict[str, Any]] = {}
    for service in table.services:
        breaker = breaker_of(service)
        for release in releases(service):
            name = cluster_name(service.service, release, breaker_mark(breaker))
            clusters[name] = cluster(name, breaker)
            loads[name] = load(name, [e for e in service.endpoints if e.release == release])
    routes = {NAME: route_configuration(table)}
    return Resources({CLUSTER: clusters, LOAD: loads, LISTENER: {NAME: listener(listen)}, ROUTES: routes})


def joined_load(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """A load assignment with the endpoints of both: while the routes move, those of the table before still answer."""
    places = {_place(e): e for load_ in (before, after) for e in _endpoints(load_)}
    if not places:
        return after
    model = (after.get("endpoints") or before["endpoints"])[0]
    merged = {**model, "lb_endpoints": [places[place] for place in sorted(places)]}
    return {"cluster_name": after["cluster_name"], "endpoints": [merged]}


def _endpoints(load_: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for locality in load_.get("endpoints", ()) for e in locality["lb_endpoints"]]


def _place(endpoint: dict[str, Any]) -> tuple[str, int]:
    address = endpoint["endpoint"]["address"]["socket_address"]
    return address["address"], address["port_value"]


def stages(before: Resources | None, after: Resources) -> tuple[Resources, ...]:
    """What Envoy is told, one after the other. When routes and endpoints change together, the endpoints that leave stay
    until the routes have moved: a release may lose its last instance in the same table that gives its users away."""
    if before is None or before[ROUTES] == after[ROUTES]:
        return (after,)
    old = before[LOAD]
    loads = {name: joined_load(old[name], new) if name in old else new for name, new in after[LOAD].items()}
    return (after,) if loads == after[LOAD] else (Resources({**after.by_type, LOAD: loads}), after)

"""Envoy's routes: host and path to a service, then its split to a release.

Each route of a service becomes, in the order in which Envoy looks:

1. while it has several releases that answer: for each of them the override by header, then by cookie;
2. while a split by user divides it: the route of an unknown visitor, who is split by the request's id and given a
   cookie of that value, so that the first request already goes where the later ones will;
3. the split itself, by user or by request.

Any request is sent to another instance when the first cannot have seen it; what more may be repeated is decided by the
method (`retries`), which every request meets before the routes' retry policy applies.

Headers of clients: `x-gapless-release` chooses a release; `x-gapless-deadline-ms` is set here, where a deadline begins;
`x-envoy-*` are removed (listener).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from gapless.core.model import Route, RouteTable, ServiceTable, Split, SplitBy
from gapless.core.protect import RateRule
from gapless.gateway.envoy.clusters import cluster_name
from gapless.gateway.envoy.limits import (
    USER_HEADER,
    breaker_mark,
    breaker_of,
    rate_limits,
    rate_of,
    rated_route,
    unrated,
)
from gapless.gateway.envoy.listener import NAME
from gapless.gateway.envoy.retries import DRAINING_HEADER, retry_policy
from gapless.gateway.match import candidates
from gapless.gateway.shares import Shares, answered_shares, reachable

Json = dict[str, Any]
Limits = tuple[RateRule | None, bool]
"""A route's rate, and whether any route of the table has one."""

RELEASE_HEADER = "x-gapless-release"
RELEASE_COOKIE = "gapless-release"
USER_COOKIE = "gapless-user"
DEADLINE_HEADER = "x-gapless-deadline-ms"

USER_COOKIE_AGE_S = 30 * 24 * 3600
"""Longer than any rollout."""

NOWHERE = (
    "No service has a route for this host and path.\n"
    "Add one under `routes:` of the service in gapless.yaml; `gapless status` lists those that exist.\n"
)


def route_configuration(table: RouteTable) -> Json:
    """envoy.config.route.v3.RouteConfiguration with a virtual host for each host that is named, and one for all."""
    rated = rate_limits(table)
    hosts = {"*"} | {route.host.lower() for service in table.services for route in service.routes}
    return {
        "name": NAME,
        "virtual_hosts": [_virtual_host(host, table, bool(rated)) for host in sorted(hosts)],
        "validate_clusters": True,  # otherwise a route to nowhere is accepted and answers 503
        "ignore_port_in_host_matching": True,
        "response_headers_to_remove": [DRAINING_HEADER],
        **({"typed_per_filter_config": rated} if rated else {}),
    }


def _virtual_host(host: str, table: RouteTable, rated: bool) -> Json:
    """Envoy picks the most specific host and looks nowhere else, so that each lists what wider ones offer as well."""
    routes = [found for route, service in candidates(table, host) for found in service_routes(service, route, rated)]
    return {"name": host, "domains": [host], "routes": [*routes, _nowhere(rated)]}


@lru_cache(maxsize=10_000)
def _service_routes(
    service: str, clusters: str, split: Split, alive: frozenset[str], timeout_s: float, route: Route, limits: Limits
) -> list[Json]:
    return [
        _route(service, timeout_s, route, limits, headers, action, more)
        for headers, action, more in (*_overrides(clusters, alive), *_split(clusters, split, alive))
    ]


def service_routes(table: ServiceTable, route: Route, rated: bool = False) -> list[Json]:
    """envoy.config.route.v3.Route messages for one route of a service, in order. Not to be changed: they are shared
    between calls, because most of a table is the same from one change to the next. `rated`: the table has a rate
    somewhere, and a route without one must say so."""
    clusters = table.service + breaker_mark(breaker_of(table))
    limits = rate_of(table, route), rated
    return _service_routes(table.service, clusters, table.split, reachable(table), table.timeout_s, route, limits)


def _route(
    service: str, timeout_s: float, route: Route, limits: Limits, headers: list[Json], action: Json, more: Json
) -> Json:
    deadline_ms = str(round(timeout_s * 1000))
    action_limits, route_limits = _limits(service, route, *limits)
    return {
        "name": service,
        "match": {**_path(route.path), "headers": headers},
        "route": {**action, **action_limits, "timeout": f"{timeout_s:.3f}s", "retry_policy": retry_policy()},
        "request_headers_to_add": [_set(DEADLINE_HEADER, deadline_ms)],
        **route_limits,
        **more,
    }


def _limits(service: str, route: Route, rate: RateRule | None, rated: bool) -> tuple[Json, Json]:
    if rate is None:
        return {}, {"typed_per_filter_config": unrated()} if rated else {}
    return rated_route(service, route, rate)


def _path(path: str) -> Json:
    """`/orders` is for itself and what is below it, not for `/orders-old`."""
    return {"prefix": path} if path.endswith("/") else {"path_separated_prefix": path}


def _overrides(service: str, alive: frozenset[str]) -> Iterator[tuple[list[Json], Json, Json]]:
    if len(alive) < 2:
        return
    for by in (_by_header, _by_cookie):
        for release in sorted(alive):
            yield [by(release)], _weighted(service, ((release, 1),)), {}


def _by_header(release: str) -> Json:
    return {"name": RELEASE_HEADER, "string_match": {"exact": release}}


def _by_cookie(release: str) -> Json:
    return _cookie_match(RELEASE_COOKIE, re.escape(release))


def _cookie_match(name: str, value: str) -> Json:
    regex = rf"(?:.*;\s*)?{name}={value}\s*(?:;.*)?"
    return {"name": "cookie", "string_match": {"safe_regex": {"regex": regex}}}


def _split(service: str, split: Split, alive: frozenset[str]) -> Iterator[tuple[list[Json], Json, Json]]:
    parts = answered_shares(split, alive)
    action = _weighted(service, parts)
    if split.by is not SplitBy.USER or len(parts) == 1:
        yield [], action, {}
        return
    action["weighted_clusters"]["use_hash_policy"] = True
    yield _unknown_visitor(), {**action, "hash_policy": _policies(split.salt, unknown=True)}, _remember()
    yield [], {**action, "hash_policy": _policies(split.salt, unknown=False)}, {}


def _weighted(service: str, parts: Shares) -> Json:
    """Weighted clusters even for one: only they can name the release in the response."""
    return {"weighted_clusters": {"clusters": [_part(service, release, weight) for release, weight in parts]}}


def _part(service: str, release: str, weight: int) -> Json:
    return {
        "name": cluster_name(service, release),
        "weight": weight,
        "response_headers_to_add": [_set(RELEASE_HEADER, release.replace("%", "%%"))],
    }


def _unknown_visitor() -> list[Json]:
    cookie = _cookie_match(USER_COOKIE, "[^;]+")
    return [
        {"name": USER_HEADER, "present_match": False},
        {**cookie, "invert_match": True, "treat_missing_header_as_empty": True},
    ]


def _remember() -> Json:
    value = f"{USER_COOKIE}=%REQ(x-request-id)%; Path=/; Max-Age={USER_COOKIE_AGE_S}; HttpOnly; SameSite=Lax"
    header = {"key": "set-cookie", "value": value}
    return {"response_headers_to_add": [{"header": header, "append_action": "APPEND_IF_EXISTS_OR_ADD"}]}


def _policies(salt: str, *, unknown: bool) -> list[Json]:
    """xxHash64 over `salt:user`, as `core.model.bucket_of`; the first that is there decides."""
    salted = salt.replace("\\", "\\\\") + ":"
    if unknown:
        return [_hash("x-request-id", "^", salted)]
    cookie = rf"^(?:.*;\s*)?{USER_COOKIE}=([^;]+).*$"
    return [_hash(USER_HEADER, "^", salted), _hash("cookie", cookie, salted + r"\1")]


def _hash(header: str, pattern: str, substitution: str) -> Json:
    rewrite = {"pattern": {"regex": pattern}, "substitution": substitution}
    return {"header": {"header_name": header, "regex_rewrite": rewrite}, "terminal": True}


def _set(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _nowhere(rated: bool) -> Json:
    return {
        **({"typed_per_filter_config": unrated()} if rated else {}),
        "name": "nowhere",
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": NOWHERE}},
    }


def referenced(configuration: Json) -> frozenset[str]:
    """The clusters that a route configuration leads to."""
    routes: Iterable[Json] = (r for host in configuration["virtual_hosts"] for r in host["routes"])
    parts = (p for r in routes if "route" in r for p in r["route"]["weighted_clusters"]["clusters"])
    return frozenset(part["name"] for part in parts)

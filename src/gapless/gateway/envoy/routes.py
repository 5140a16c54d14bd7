"""Envoy's routes: a route of a service, then each rule by which one of its releases is chosen (`gateway.rules`), in the
order in which Envoy looks.

Any request is sent to another instance when the first cannot have seen it; what more may be repeated is decided by the
method (`retries`), which every request meets before the routes' retry policy applies.

Headers of clients: `x-gapless-release` chooses a release, if the service allows it; `x-gapless-deadline-ms` is set
here, where a deadline begins; `x-envoy-*` are removed (listener).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from gapless.core.model import Route, RouteTable, ServiceTable
from gapless.core.model.mirror import MIRROR_HEADER
from gapless.core.protect import RateRule
from gapless.gateway.envoy.clusters import cluster_name, mark_of
from gapless.gateway.envoy.limits import rate_limits, rate_of, rated_route, unrated
from gapless.gateway.envoy.listener import NAME
from gapless.gateway.envoy.matchers import ADDRESS_HEADER, cookie, passes, route_match
from gapless.gateway.envoy.parts import Parts
from gapless.gateway.envoy.policies import Policies, policies_of, with_policies
from gapless.gateway.envoy.retries import DRAINING_HEADER, retry_filter, retry_policy
from gapless.gateway.envoy.weights import key_of, moves
from gapless.gateway.rules import REQUEST_HEADER, USER_COOKIE, Rule, Source, Test, standing_rules

Json = dict[str, Any]
Limits = tuple[RateRule | None, bool, Policies]
"""A route's rate, whether any route of the table has one, and its other policies."""

RELEASE_HEADER = "x-gapless-release"
"""Of a response: who answered."""
DEADLINE_HEADER = "x-gapless-deadline-ms"

USER_COOKIE_AGE_S = 30 * 24 * 3600
"""Longer than any rollout."""

NOWHERE = (
    "No service has a route for this request.\n"
    "Add one under `routes:` of the service in gapless.yaml; `gapless route` lists those that exist.\n"
)


def route_configuration(table: RouteTable, parts: Parts | None = None) -> Json:
    """envoy.config.route.v3.RouteConfiguration with a virtual host for each host that is named, and one for all."""
    parts = parts or Parts()
    rated = rate_limits(table, parts)
    return {
        "name": NAME,
        "virtual_hosts": [_virtual_host(host, table, parts, rated=bool(rated)) for host in parts.hosts(table)],
        "validate_clusters": True,  # otherwise a route to nowhere is accepted and answers 503
        "ignore_port_in_host_matching": True,
        "response_headers_to_remove": [DRAINING_HEADER],
        "request_headers_to_remove": [MIRROR_HEADER],  # only we may say that no user waits
        **({"typed_per_filter_config": rated} if rated else {}),
    }


def _virtual_host(host: str, table: RouteTable, parts: Parts, *, rated: bool) -> Json:
    """Envoy picks the most specific host and looks nowhere else, so that each lists what wider ones offer as well."""
    routes = parts.listed(table, host, rated, partial(service_routes, rated=rated))
    return {"name": host, "domains": [host], "routes": [*chain.from_iterable(routes), _nowhere(rated)]}


@lru_cache(maxsize=10_000)
def _service_routes(
    service: str, clusters: str, rules: tuple[Rule, ...], timeout_s: float, route: Route, limits: Limits
) -> list[Json]:
    common = _common(service, timeout_s, route, limits)
    match = route_match(route)
    return [_route(common, match, service, clusters, rule) for rule in rules]


def service_routes(table: ServiceTable, route: Route, rated: bool = False) -> list[Json]:
    """envoy.config.route.v3.Route messages for one route of a service, in order; `weights.weighed` puts in the weights
    that are drawn by. Not to be changed: they are shared between calls, because most of a table is the same from one
    change to the next. `rated`: the table has a rate somewhere, and a route without one must say so."""
    clusters = table.service + mark_of(table)
    limits = rate_of(table, route), rated, policies_of(table, route)
    timeout_s = route.timeout_s or table.timeout_s
    rules = tuple(_unweighed(rule) if moves(rule) else rule for rule in standing_rules(table))
    return _service_routes(table.service, clusters, rules, timeout_s, route, limits)


def _unweighed(rule: Rule) -> Rule:
    return replace(rule, shares=tuple((release, 0) for release, _ in rule.shares))


def _common(service: str, timeout_s: float, route: Route, limits: Limits) -> Json:
    """What all the Envoy routes of a route have: neither who matches nor who answers."""
    timeout = f"{timeout_s:.3f}s"
    action_limits, route_limits = _limits(service, route, *limits[:2])
    retries = retry_policy(route.retries, route.try_timeout_s)
    filters = {**route_limits.pop("typed_per_filter_config", {}), **retry_filter(route.retries)}
    found = {
        "name": service,
        "route": {**action_limits, "timeout": timeout, "retry_policy": retries},
        "request_headers_to_add": [_set(DEADLINE_HEADER, str(round(timeout_s * 1000)))],
        **route_limits,
        **({"typed_per_filter_config": filters} if filters else {}),
    }
    return with_policies(found, timeout, limits[2])


def _route(common: Json, match: Json, service: str, clusters: str, rule: Rule) -> Json:
    headers = [passes(test) for test in rule.tests]
    action = {**common["route"], **_action(service, clusters, rule)}
    remembered = _remember() if rule.draw and rule.draw.source is Source.VISIT else {}
    match = {**match, "headers": [*match.get("headers", []), *headers]}
    return {**common, "match": match, "route": action, **remembered}


def _limits(service: str, route: Route, rate: RateRule | None, rated: bool) -> tuple[Json, Json]:
    if rate is None:
        return {}, {"typed_per_filter_config": unrated()} if rated else {}
    return rated_route(service, route, rate)


def _action(service: str, clusters: str, rule: Rule) -> Json:
    """Weighted clusters even for one: only they can name the release in the response."""
    weighted = _drawn(service, clusters, rule) if moves(rule) else _fixed(clusters, rule)
    if rule.draw is None or rule.draw.source is Source.DICE:
        return {"weighted_clusters": weighted}
    if rule.draw.source is Source.NUMBER:  # the sum of the weights is the modulus
        return {"weighted_clusters": {**weighted, "header_name": rule.draw.name}}
    return {"weighted_clusters": {**weighted, "use_hash_policy": True}, "hash_policy": [_hash(rule.draw, rule.salt)]}


def _drawn(service: str, clusters: str, rule: Rule) -> Json:
    parts = [_part(clusters, release) for release, _ in rule.shares]
    return {"clusters": parts, "runtime_key_prefix": key_of(service, clusters, rule)}


def _fixed(clusters: str, rule: Rule) -> Json:
    return {"clusters": [{**_part(clusters, release), "weight": weight} for release, weight in rule.shares]}


def _part(clusters: str, release: str) -> Json:
    return {
        "name": cluster_name(clusters, release),
        "response_headers_to_add": [_set(RELEASE_HEADER, release.replace("%", "%%"))],
    }


def _remember() -> Json:
    value = f"{USER_COOKIE}=%REQ({REQUEST_HEADER})%; Path=/; Max-Age={USER_COOKIE_AGE_S}; HttpOnly; SameSite=Lax"
    header = {"key": "set-cookie", "value": value}
    return {"response_headers_to_add": [{"header": header, "append_action": "APPEND_IF_EXISTS_OR_ADD"}]}


def _hash(draw: Test, salt: str) -> Json:
    """xxHash64 over `salt:value`, as `core.model.bucket_of`."""
    salted = salt.replace("\\", "\\\\") + ":"
    if draw.source is Source.COOKIE:
        name, pattern, substitution = "cookie", cookie(draw.name, "([^;]+)"), salted + r"\1"
    else:
        name = {Source.VISIT: REQUEST_HEADER, Source.ADDRESS: ADDRESS_HEADER}.get(draw.source, draw.name)
        pattern, substitution = "^", salted
    rewrite = {"pattern": {"regex": pattern}, "substitution": substitution}
    return {"header": {"header_name": name, "regex_rewrite": rewrite}, "terminal": True}


def _set(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


@lru_cache(maxsize=2)
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

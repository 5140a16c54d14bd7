"""What the settings of a service add to each of its routes: CORS, deadlines of gRPC, another zone, faults. Pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from gapless.core.model import Cors, Fault, Protocol, Retries, Route, ServiceTable, Upstream
from gapless.gateway.envoy.clusters import UPSTREAM
from gapless.gateway.envoy.faults import fault
from gapless.gateway.envoy.listener import CORS_FILTER, FAULT_FILTER
from gapless.gateway.envoy.retries import DEFAULT, HEDGE_KEY, HEDGES_KEY, elsewhere_filter, other_zones

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy."


class Policies(NamedTuple):
    upstream: Upstream = UPSTREAM
    cors: Cors | None = None
    fault: Fault | None = None
    retries: Retries = DEFAULT


def policies_of(service: ServiceTable, route: Route) -> Policies:
    return Policies(service.upstream, route.cors or service.cors, service.fault, route.retries)


def with_policies(route: Json, timeout: str, policies: Policies) -> Json:
    """An envoy.config.route.v3.Route, and what the policies add to it; `timeout` is its own, in seconds."""
    filters: Json = {}
    if policies.cors:
        filters[CORS_FILTER] = cors(policies.cors)
    if policies.fault:
        filters[FAULT_FILTER] = fault(policies.fault)
    zoned, grpc = len(policies.upstream.zones) > 1, policies.upstream.protocol is Protocol.GRPC
    if zoned or grpc:
        filters |= elsewhere_filter(policies.retries)
    if filters:
        route = {**route, "typed_per_filter_config": {**route.get("typed_per_filter_config", {}), **filters}}
    if grpc:
        route = {**route, "route": {**route["route"], **_grpc(timeout)}}
    return _zoned(route, policies.upstream) if zoned else route


def _grpc(timeout: str) -> Json:
    """The caller's `grpc-timeout`, at most ours: it ends with DEADLINE_EXCEEDED, not with an HTTP status."""
    return {
        "timeout": "0s",
        "max_stream_duration": {"max_stream_duration": timeout, "grpc_timeout_header_max": timeout},
    }


def _zoned(route: Json, upstream: Upstream) -> Json:
    action = route["route"]
    if "retry_on" not in action["retry_policy"]:
        return route
    retry = {**action["retry_policy"], **other_zones()}
    found = {**route, "route": {**action, "retry_policy": retry}}
    if upstream.hedge_s:
        metadata = route.get("metadata", {}).get("filter_metadata", {})
        ours = {**metadata.get("gapless", {}), HEDGES_KEY: "true", HEDGE_KEY: str(round(upstream.hedge_s * 1000))}
        found["metadata"] = {"filter_metadata": {**metadata, "gapless": ours}}
    return found


def cors(policy: Cors) -> Json:
    """envoy.extensions.filters.http.cors.v3.CorsPolicy."""
    return {
        "@type": _TYPE + "extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"safe_regex": {"regex": _origin(origin)}} for origin in policy.origins],
        "allow_methods": ", ".join(policy.methods),
        "allow_headers": ", ".join(policy.headers),
        "expose_headers": ", ".join(policy.expose),
        "max_age": str(policy.max_age_s),
        "allow_credentials": policy.credentials,
    }


def _origin(origin: str) -> str:
    return ".*" if origin == "*" else re.escape(origin).replace(r"\*", r"[^/:]+")

"""Mirrored requests as Envoy is told of them: a cluster of their own, so that they count in nobody's figures, and,
before each route of the service, a twin for the mirrored methods with a mirror policy.

The twin leads where the route leads. Envoy does not wait for the shadow's answer, and throws it away. But it reads a
request no faster than its shadow takes it, once 64 kB are on their way: a hanging shadow would hold an upload. So a
body is mirrored only when its length is known and smaller. (A GET with a large chunked body is the exception, which no
client sends: Envoy hides `transfer-encoding` from routes.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gapless.core.model import Endpoint, RouteTable, ServiceTable
from gapless.core.model.gates import SAFE_METHODS
from gapless.core.model.mirror import MIRROR_HEADER, MirrorTarget
from gapless.gateway.envoy.clusters import load

Json = dict[str, Any]

CONNECTIONS = 16
WAITING = 64
"""The comparer answers at once; more than these wait only when it hangs, and are refused then."""
SMALL = "[0-5]?[0-9]{1,4}"
"""A `content-length` of less than 60 kB: what a shadow that takes nothing does not hold."""
BODILESS = (*SAFE_METHODS, "OPTIONS")
TYPE = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def shadow_name(service: str) -> str:
    """Has no `@`: nothing that it is asked counts as a release's."""
    return f"{service}!mirror"


def shadows(table: RouteTable) -> tuple[dict[str, Json], dict[str, Json]]:
    """Clusters and load assignments by name."""
    found = {shadow_name(s.service): s.mirror for s in table.services if s.mirror}
    return (
        {name: _cluster(name) for name in found},
        {name: load(name, [_endpoint(name, target)]) for name, target in found.items()},
    )


def with_mirrors(configuration: Json, table: RouteTable) -> Json:
    """The route configuration with a twin before each route of a mirrored service."""
    mirrored = {service.service: service for service in table.services if service.mirror}
    if not mirrored:
        return configuration
    hosts = [
        {**host, "routes": [each for route in host["routes"] for each in _with_twin(route, mirrored)]}
        for host in configuration["virtual_hosts"]
    ]
    return {**configuration, "virtual_hosts": hosts}


def _with_twin(route: Json, mirrored: dict[str, ServiceTable]) -> Iterator[Json]:
    service = mirrored.get(route.get("name", ""))
    if service and service.mirror and "route" in route:
        yield from _twins(route, service.service, service.mirror)
    yield route


def _twins(route: Json, service: str, target: MirrorTarget) -> Iterator[Json]:
    """One for methods that have a body only by way of exception, one for the others."""
    for methods, length in (
        ([m for m in target.methods if m in BODILESS], f"|{SMALL}"),
        ([m for m in target.methods if m not in BODILESS], SMALL),
    ):
        if methods:
            yield _twin(route, service, target, "|".join(methods), length)


def _twin(route: Json, service: str, target: MirrorTarget, methods: str, length: str) -> Json:
    match = route["match"]
    only = [
        {"name": ":method", **_fits(methods)},
        {"name": "content-length", **_fits(length), "treat_missing_header_as_empty": True},
        {"name": "upgrade", "present_match": False},
    ]
    return {
        **route,
        "match": {**match, "headers": [*match.get("headers", ()), *only]},
        "route": {**route["route"], "request_mirror_policies": [_policy(service, target)]},
    }


def _fits(regex: str) -> Json:
    return {"string_match": {"safe_regex": {"regex": regex}}}


def _policy(service: str, target: MirrorTarget) -> Json:
    marker = {"header": {"key": MIRROR_HEADER, "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "cluster": shadow_name(service),
        "runtime_fraction": {"default_value": {"numerator": target.share, "denominator": "TEN_THOUSAND"}},
        "trace_sampled": False,
        "disable_shadow_host_suffix_append": True,  # the new release shall see what it will see
        "request_headers_mutations": [*({"remove": name} for name in target.strip), {"append": marker}],
    }


def _cluster(name: str) -> Json:
    limits = {"max_connections": CONNECTIONS, "max_pending_requests": WAITING, "max_requests": WAITING}
    options = {
        "@type": TYPE,
        "common_http_protocol_options": {"idle_timeout": "5s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "connect_timeout": "0.250s",
        "common_lb_config": {"update_merge_window": "0s"},
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _endpoint(name: str, target: MirrorTarget) -> Endpoint:
    return Endpoint(instance=name, release="", address=target.address)

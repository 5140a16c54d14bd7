"""Envoy's clusters and load assignments: one of each for every release of a service.

A cluster says how its instances are talked to and never changes once it is made, because a changed cluster is warmed
anew (facts: pitfall 1). All that moves is in its load assignment (who may be asked) and in the routes (who is asked).
So whatever is not as usual is part of the cluster's *name*: another setting is another cluster, to which the routes
move while requests under way finish on the old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import msgspec

from gapless.core.grpc_health import GRPC_HEALTH
from gapless.core.model import Endpoint, Protocol, ServiceTable, Upstream
from gapless.core.protect import BreakerRule
from gapless.gateway.envoy.limits import breaker_of, outlier_detection, thresholds

MARK = "~"
"""Between a cluster's service and what is special about it: no service's name, a DNS label, has it."""

UPSTREAM = Upstream()
"""The usual way to ask. Instances are near, hence `connect_s`: one that does not accept within a second is asked
nothing, and the request goes elsewhere. An idle connection is closed by us before the instance closes it, hence
`idle_s`: a POST that crosses the instance's FIN cannot be retried. Servers keep idle connections for 2 s (gunicorn) to
75 s; a new one costs 0.1 ms on loopback."""

MAX_AT_ONCE = 20_000
"""Connections, waiting and running requests per cluster: far above what one machine serves, only against memory."""

RETRIES_AT_LEAST = 100
RETRY_BUDGET_PERCENT = 60.0
"""An instance that is killed loses all that it held at once, with two instances half of everything: that much must be
retried. When all instances fail, retries are at most 60 % of the running requests beyond the first hundred."""

LOCAL_FAILURES = 3
"""A host that refuses or resets so often in a row gets nothing for a while; one that answers 502, 503 or 504, after
`eject_after` of them. An application's own 500 never ejects: the release is at fault then, and judging it is the
rollout's work."""

CHECK_S, CHECK_LIMIT_S = 0.25, 0.5
"""How often the gateway itself looks after instances in several zones, and how long an answer may take: a zone that
went dark is left after 0.75 s at most, also with the control plane dead. Wrongly left, as by a machine under load, it
costs nothing: the other zone answers; and when all look dark, none is left (PANIC_PERCENT)."""
ZONES_CONNECT_S = 0.4
"""Less than `connect_s`: a request that cannot be repeated must still reach another zone within a second."""
PANIC_PERCENT = 1.0

HEALTHY_S = 1.0
"""From recovery to the first request."""

LOCAL = "local"
"""The locality of whoever is in no zone."""


def cluster_name(service: str, release: str, mark: str = "") -> str:
    """`orders@1.5.0`, or `orders~1f2e3d4c@1.5.0` with `mark_of`; a service's name has neither sign."""
    return f"{service}{mark}@{release}"


@lru_cache(maxsize=10_000)
def split_name(cluster: str) -> tuple[str, str]:
    """(service, release) of a cluster; ("", "") for one that is not ours."""
    service, at, release = cluster.partition("@")
    return (service.partition(MARK)[0], release) if at else ("", "")


def mark_of(service: ServiceTable) -> str:
    """What the settings of a service add to its clusters' names; nothing for the usual ones."""
    return mark(breaker_of(service), service.upstream)


@lru_cache(maxsize=10_000)
def mark(breaker: BreakerRule | None, upstream: Upstream) -> str:
    content = _content(breaker, upstream)
    if content == _content(None, UPSTREAM):
        return ""
    return MARK + hashlib.blake2b(msgspec.json.encode(content), digest_size=4).hexdigest()


@lru_cache(maxsize=10_000)
def cluster(name: str, breaker: BreakerRule | None = None, upstream: Upstream = UPSTREAM) -> dict[str, Any]:
    """envoy.config.cluster.v3.Cluster: depends on its name alone, which tells the rest. Not to be changed: it is
    shared between calls."""
    return {"name": name, **_content(breaker, upstream)}


def _content(breaker: BreakerRule | None, upstream: Upstream) -> dict[str, Any]:
    zoned = len(upstream.zones) > 1
    panic = PANIC_PERCENT if zoned else 0
    return {
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "connect_timeout": _seconds(min(upstream.connect_s, ZONES_CONNECT_S) if zoned else upstream.connect_s),
        "lb_policy": "LEAST_REQUEST",
        # 0: with no healthy host say 503 rather than ask the sick ones. 0s: 35 ms instead of 1 s until a change acts.
        "common_lb_config": {"healthy_panic_threshold": {"value": panic}, "update_merge_window": "0s"},
        "ignore_health_on_host_removal": True,
        "outlier_detection": {**_outlier_detection(upstream), **(outlier_detection(breaker) if breaker else {})},
        "circuit_breakers": {"thresholds": [{**_thresholds(upstream), **(thresholds(breaker) if breaker else {})}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http(upstream)},
        **_slow_start(upstream),
        **({"health_checks": [_health_check(upstream)]} if zoned else {}),
    }


def _seconds(value: float) -> str:
    return f"{value:.3f}s"


def _slow_start(upstream: Upstream) -> dict[str, Any]:
    if not upstream.slow_start_s:
        return {}
    return {"least_request_lb_config": {"slow_start_config": {"slow_start_window": _seconds(upstream.slow_start_s)}}}


def _health_check(upstream: Upstream) -> dict[str, Any]:
    return {
        "timeout": _seconds(CHECK_LIMIT_S),
        "interval": _seconds(CHECK_S),
        "no_traffic_interval": _seconds(HEALTHY_S),
        "no_traffic_healthy_interval": _seconds(HEALTHY_S),
        "unhealthy_threshold": 1,
        "healthy_threshold": 2,
        "reuse_connection": False,
        **_question(upstream),
    }


def _question(upstream: Upstream) -> dict[str, Any]:
    if upstream.check == GRPC_HEALTH and upstream.protocol is not Protocol.HTTP:
        return {"grpc_health_check": {}}
    if upstream.check and upstream.protocol is Protocol.HTTP:
        return {"http_health_check": {"path": upstream.check, "host": "gateway"}}
    return {"tcp_health_check": {}}


def load(name: str, endpoints: Sequence[Endpoint], zone: str = "") -> dict[str, Any]:
    """envoy.config.endpoint.v3.ClusterLoadAssignment, also of nobody (facts: pitfall 2).

    Draining endpoints are left out rather than marked: Envoy then closes the idle connections to them, which lets them
    end at once, and finishes the requests that are under way. `zone`: where the gateway is; whoever is there is asked
    first, the others when they fail.
    """
    asked = sorted((e for e in endpoints if not e.draining), key=lambda e: (e.zone, e.address))
    places = [_locality(name_, list(found)) for name_, found in groupby(asked, key=lambda e: e.zone)]
    if not places:
        return {"cluster_name": name}
    return {"cluster_name": name, "endpoints": _ranked(places, zone)}


def _locality(zone: str, endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    return {
        "locality": {"zone": zone or LOCAL},
        "load_balancing_weight": 1,  # without it gRPC's own xDS client ignores the locality
        "lb_endpoints": [_endpoint(e) for e in endpoints],
    }


def _ranked(places: list[dict[str, Any]], zone: str) -> list[dict[str, Any]]:
    """Envoy's priorities have no gaps: where nobody is near, the others are the first."""
    near = [place for place in places if place["locality"]["zone"] == zone]
    if not near or len(near) == len(places):
        return places
    return [*near, *({**place, "priority": 1} for place in places if place not in near)]


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    address = {"address": endpoint.address.host, "port_value": endpoint.address.port}
    return {"endpoint": {"address": {"socket_address": address}, "hostname": endpoint.instance}}


def _outlier_detection(upstream: Upstream) -> dict[str, Any]:
    return {
        "interval": "1s",
        "base_ejection_time": f"{upstream.eject_for_s:.3f}s",
        "max_ejection_percent": upstream.eject_most,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": LOCAL_FAILURES,
        "enforcing_consecutive_local_origin_failure": 100,
        "consecutive_gateway_failure": upstream.eject_after or 1,
        "enforcing_consecutive_gateway_failure": 100 if upstream.eject_after else 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_failure_percentage": 0,
    }


def _thresholds(upstream: Upstream) -> dict[str, Any]:
    budget = {"budget_percent": {"value": RETRY_BUDGET_PERCENT}, "min_retry_concurrency": RETRIES_AT_LEAST}
    return {
        "max_connections": upstream.connections or MAX_AT_ONCE,
        "max_pending_requests": MAX_AT_ONCE,
        "max_requests": MAX_AT_ONCE,
        "retry_budget": budget,
    }


def _http(upstream: Upstream) -> dict[str, Any]:
    kind = "http_protocol_options" if upstream.protocol is Protocol.HTTP else "http2_protocol_options"
    return {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"idle_timeout": _seconds(upstream.idle_s)},
        "explicit_http_config": {kind: {}},
    }

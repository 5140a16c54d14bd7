"""Envoy's clusters and load assignments: one of each for every release of a service.

A cluster says how its instances are talked to and never changes once it is made, because a changed cluster is warmed
anew (facts: pitfall 1). All that moves is in its load assignment (who may be asked) and in the routes (who is asked).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from gapless.core.model import Endpoint
from gapless.core.protect import BreakerRule
from gapless.gateway.envoy.limits import MARK, outlier_detection, thresholds

CONNECT_TIMEOUT = "1s"
"""Instances are near; one that does not accept within a second is asked nothing, and the request goes elsewhere."""

UPSTREAM_IDLE = "1s"
"""An idle connection is closed by us before the instance closes it: a POST that crosses the instance's FIN cannot be
retried. Servers keep idle connections for 2 s (gunicorn) to 75 s; a new one costs 0.1 ms on loopback."""

MAX_AT_ONCE = 20_000
"""Connections, waiting and running requests per cluster: far above what one machine serves, only against memory."""

RETRIES_AT_LEAST = 100
RETRY_BUDGET_PERCENT = 60.0
"""An instance that is killed loses all that it held at once, with two instances half of everything: that much must be
retried. When all instances fail, retries are at most 60 % of the running requests beyond the first hundred."""

GATEWAY_FAILURES = 5
LOCAL_FAILURES = 3
EJECTED_S = "5s"
"""A host that refuses, resets or answers 502/503/504 so often in a row gets nothing for a while (n-th time: n x as
long). An application's own 500 never ejects: the release is at fault then, and judging it is the rollout's work."""


def cluster_name(service: str, release: str, mark: str = "") -> str:
    """`orders@1.5.0`, or `orders~1f2e3d4c@1.5.0` with `limits.breaker_mark`; a service's name has neither sign."""
    return f"{service}{mark}@{release}"


@lru_cache(maxsize=10_000)
def split_name(cluster: str) -> tuple[str, str]:
    """(service, release) of a cluster; ("", "") for one that is not ours."""
    service, at, release = cluster.partition("@")
    return (service.partition(MARK)[0], release) if at else ("", "")


@lru_cache(maxsize=10_000)
def cluster(name: str, breaker: BreakerRule | None = None) -> dict[str, Any]:
    """envoy.config.cluster.v3.Cluster: depends on its name alone, which tells the breaker. Not to be changed: it is
    shared between calls."""
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "connect_timeout": CONNECT_TIMEOUT,
        "lb_policy": "LEAST_REQUEST",
        # 0: with no healthy host say 503 rather than ask the sick ones. 0s: 35 ms instead of 1 s until a change acts.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "ignore_health_on_host_removal": True,
        "outlier_detection": {**_outlier_detection(), **(outlier_detection(breaker) if breaker else {})},
        "circuit_breakers": {"thresholds": [{**_thresholds(), **(thresholds(breaker) if breaker else {})}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http()},
    }


def load(name: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """envoy.config.endpoint.v3.ClusterLoadAssignment, also of nobody (facts: pitfall 2).

    Draining endpoints are left out rather than marked: Envoy then closes the idle connections to them, which lets them
    end at once, and finishes the requests that are under way.
    """
    asked = sorted((e for e in endpoints if not e.draining), key=lambda e: e.address)
    if not asked:
        return {"cluster_name": name}
    locality = {
        "locality": {"zone": "local"},
        "load_balancing_weight": 1,  # without it gRPC's own xDS client ignores the locality
        "lb_endpoints": [_endpoint(e) for e in asked],
    }
    return {"cluster_name": name, "endpoints": [locality]}


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    address = {"address": endpoint.address.host, "port_value": endpoint.address.port}
    return {"endpoint": {"address": {"socket_address": address}, "hostname": endpoint.instance}}


def _outlier_detection() -> dict[str, Any]:
    return {
        "interval": "1s",
        "base_ejection_time": EJECTED_S,
        "max_ejection_percent": 50,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": LOCAL_FAILURES,
        "enforcing_consecutive_local_origin_failure": 100,
        "consecutive_gateway_failure": GATEWAY_FAILURES,
        "enforcing_consecutive_gateway_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_failure_percentage": 0,
    }


def _thresholds() -> dict[str, Any]:
    budget = {"budget_percent": {"value": RETRY_BUDGET_PERCENT}, "min_retry_concurrency": RETRIES_AT_LEAST}
    return {
        "max_connections": MAX_AT_ONCE,
        "max_pending_requests": MAX_AT_ONCE,
        "max_requests": MAX_AT_ONCE,
        "retry_budget": budget,
    }


def _http() -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"idle_timeout": UPSTREAM_IDLE},
        "explicit_http_config": {"http_protocol_options": {}},
    }

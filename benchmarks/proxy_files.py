"""Static files for Envoy that `proxy.py` and `proxy_parts.py` compare: by hand, and what Gapless tells it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from gapless.core.model import BUCKETS, Address, Endpoint, Entrance, Route, RouteTable, ServiceTable, Split
from gapless.gateway.envoy.bootstrap import bootstrap
from gapless.gateway.envoy.entries import LINE
from gapless.gateway.envoy.listener import NAME
from gapless.gateway.envoy.resources import CLUSTER, LISTENER, LOAD, ROUTES, resources

Json = dict[str, Any]

HOST = "127.0.0.1"
TYPE = "type.googleapis.com/envoy.extensions."
RETRY_ON = "connect-failure,refused-stream,reset-before-request,reset"


def table(back: int) -> RouteTable:
    """One service at rest: one release with one instance."""
    split = Split(service="web", stable="1", weights=(("1", BUCKETS),))
    place = Endpoint(instance="web-1", release="1", address=Address(host=HOST, port=back))
    return RouteTable(
        version=1, services=(ServiceTable(service="web", split=split, endpoints=(place,), routes=(Route(path="/"),)),)
    )


def least(port: int, back: int, log: Path | None = None) -> Json:
    """The least that works: a listener, a route, a cluster; perhaps Envoy's own access log."""
    return _file(port, back, {"route": {"cluster": "back"}}, {"access_log": [_file_log(log)]} if log else {})


def same_duty(port: int, back: int, log: Path) -> Json:
    """What a team writes for an edge that does what Gapless's does: Envoy's own advice for edges (addresses, paths,
    slow headers), releases by weight that the response names, a deadline for the instance, retries, the same log."""
    part = {"name": "back", "weight": BUCKETS, "response_headers_to_add": [_set("x-release", "1")]}
    action = {
        "weighted_clusters": {"clusters": [part]},
        "timeout": "15s",
        "retry_policy": {"retry_on": RETRY_ON, "num_retries": 3},
    }
    route = {"route": action, "request_headers_to_add": [_set("x-deadline-ms", "15000")]}
    edge = {"use_remote_address": True, "normalize_path": True, "request_headers_timeout": "10s"}
    return _file(port, back, route, {**edge, "access_log": [_file_log(log, LINE.replace("\n", "\t") + "\n")]})


def gapless(port: int, back: int, xds_socket: str = "xds.sock") -> Json:
    """What Gapless tells Envoy, as a file; the access log goes to the socket."""
    found = resources(table(back), Entrance(listen=Address(host=HOST, port=port)))
    file = bootstrap(xds_socket)
    for key in ("admin", "dynamic_resources"):
        del file[key]
    file["layered_runtime"]["layers"] = [each for each in file["layered_runtime"]["layers"] if "rtds_layer" not in each]
    listeners = copy.deepcopy(list(found[LISTENER].values()))
    routes = {k: v for k, v in copy.deepcopy(found[ROUTES][NAME]).items() if k != "validate_clusters"}
    manager(listeners[0]).pop("rds")
    manager(listeners[0])["route_config"] = routes
    clusters = [_still(cluster, found[LOAD][name]) for name, cluster in found[CLUSTER].items()]
    file["static_resources"]["listeners"] = listeners
    file["static_resources"]["clusters"] = [*clusters, *file["static_resources"]["clusters"]]
    return file


def manager(listener: Json) -> Json:
    """A listener's HTTP connection manager."""
    found: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _still(cluster: Json, load: Json) -> Json:
    return {k: v for k, v in cluster.items() if k != "eds_cluster_config"} | {"type": "STATIC", "load_assignment": load}


def _file(port: int, back: int, route: Json, more: Json) -> Json:
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}
    http = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "static",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}]
        },
        "http_filters": [router],
        **more,
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}]
    place = {"lb_endpoints": [{"endpoint": {"address": _at(back)}}]}
    cluster = {
        "name": "back",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "back", "endpoints": [place]},
    }
    listener = {"address": _at(port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _at(port: int) -> Json:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _file_log(path: Path, line: str = "") -> Json:
    text = {"log_format": {"text_format_source": {"inline_string": line}}} if line else {}
    config = {"@type": TYPE + "access_loggers.file.v3.FileAccessLog", "path": str(path), **text}
    return {"name": "envoy.access_loggers.file", "typed_config": config}


def _set(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}

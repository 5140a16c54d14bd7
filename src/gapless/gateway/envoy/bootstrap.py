"""What Envoy is started with. Paths are relative to its working directory, so that a Unix socket's 107 bytes are not
spent on where the state directory lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gapless.gateway.envoy.listener import NAME

ADMIN_SOCKET = "admin.sock"
BOOTSTRAP = "bootstrap.json"

RECONNECT = {"base_interval": "0.100s", "max_interval": "1s"}
"""Envoy's own 0.5 … 30 s would leave a restarted control plane without its gateway for half a minute."""

DRAIN_S = 600
"""How long a removed or changed listener lets its requests finish; `drain` decides by what is still under way."""

MAX_WORKERS = 4
"""Envoy's threads: one of them proxies some 15,000 requests a second; the services need the other cores."""

_COUNTED = ("control_plane.", "cluster_manager.", "listener_manager.", f"http.{NAME}.", "server.")
_COUNTED_PER_CLUSTER = (
    "upstream_rq_active",
    "upstream_rq_retry",
    "upstream_cx_active",
    "membership_healthy",
    "ejections_active",
)


def bootstrap(xds_socket: str) -> dict[str, Any]:
    """envoy.config.bootstrap.v3.Bootstrap; `xds_socket` is relative to Envoy's working directory."""
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": NAME, "cluster": NAME},
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET, "mode": 0o600}}},
        "dynamic_resources": {"ads_config": _ads(), "cds_config": ads, "lds_config": ads},
        "static_resources": {"clusters": [_control(xds_socket)]},
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": _patterns()}}},
    }


def arguments(binary: Path, workers: int) -> list[str]:
    """argv. Without Envoy's own hot restart, which keeps a file in /dev/shm that a SIGKILL would leave there."""
    argv = [str(binary), "--config-path", BOOTSTRAP, "--concurrency", str(workers), "--disable-hot-restart"]
    return [*argv, "--drain-strategy", "immediate", "--drain-time-s", str(DRAIN_S), "--log-level", "warning"]


def default_workers() -> int:
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0))))


def _ads() -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": NAME, "retry_policy": {"retry_back_off": RECONNECT}}}
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [service],
    }


def _control(xds_socket: str) -> dict[str, Any]:
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"endpoint": {"address": {"pipe": {"path": xds_socket}}}}
    return {
        "name": NAME,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {"cluster_name": NAME, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _patterns() -> list[dict[str, str]]:
    return [*({"prefix": p} for p in _COUNTED), *({"suffix": "." + s} for s in _COUNTED_PER_CLUSTER)]

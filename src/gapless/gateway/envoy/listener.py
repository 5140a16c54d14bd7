"""Envoy's one listener. It never changes while the gateway runs: a changed listener drops the requests that outlive its
drain (facts). All that varies is in the routes, clusters and load assignments that it leads to."""

from __future__ import annotations

from typing import Any

from gapless.core.model import Address
from gapless.gateway.envoy.limits import rate_limit_filter, refusals
from gapless.gateway.envoy.retries import repeatable

NAME = "gapless"
"""The listener, its route configuration, its access log, and the bootstrap's cluster that leads to us."""

LOG_FLUSH = "0.2s"
"""Entries of the access log arrive at most so long after their request ended: 0.2 s of a verdict's age for one write
per worker instead of one per request."""

HEADERS_TIMEOUT = "10s"
"""From a request's first byte to the end of its headers: nobody holds a connection by sending one byte a minute."""

_TYPE = "type.googleapis.com/envoy.extensions."


def listener(listen: Address) -> dict[str, Any]:
    """envoy.config.listener.v3.Listener on the public address."""
    return {
        "name": NAME,
        "address": {"socket_address": {"address": listen.host, "port_value": listen.port}},
        # With SO_REUSEPORT a forgotten gateway on the same address would silently take half of the connections.
        "enable_reuse_port": False,
        "connection_balance_config": {"exact_balance": {}},  # one socket for all workers: share out what it accepts
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _http()}]}],
    }


def _http() -> dict[str, Any]:
    return {
        "@type": _TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": NAME,
        "rds": {"route_config_name": NAME, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "use_remote_address": True,
        # No client is trusted with x-envoy-* headers (retries, timeouts), not even one on this machine: nothing ever
        # comes from 0.0.0.0 (RFC 1122 §3.2.1.3).
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "0.0.0.0", "prefix_len": 32}]},  # noqa: S104
        "preserve_external_request_id": True,  # a caller finds its request again by the id it gave
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "request_headers_timeout": HEADERS_TIMEOUT,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": [{"name": "envoy.access_loggers.http_grpc", "typed_config": _access_log()}],
        "local_reply_config": refusals(),
        "http_filters": [
            rate_limit_filter(),
            {"name": "repeatable", "typed_config": repeatable()},
            {"name": "envoy.filters.http.router", "typed_config": _router()},
        ],
    }


def _router() -> dict[str, Any]:
    return {"@type": _TYPE + "filters.http.router.v3.Router", "suppress_envoy_headers": True}


def _access_log() -> dict[str, Any]:
    common = {
        "log_name": NAME,
        "grpc_service": {"envoy_grpc": {"cluster_name": NAME}},
        "transport_api_version": "V3",
        "buffer_flush_interval": LOG_FLUSH,
    }
    return {
        "@type": _TYPE + "access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        "common_config": common,
        "additional_request_headers_to_log": ["x-user-id"],
    }

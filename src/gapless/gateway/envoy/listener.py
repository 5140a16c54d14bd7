"""Envoy's listeners: the public one, and with TLS perhaps one that only redirects. They never change while the gateway
runs: a changed listener drops the requests that outlive its drain (facts). All that varies is in the routes, clusters,
load assignments and secrets that they lead to; the filters here do nothing until a route says so."""

from __future__ import annotations

from typing import Any

from gapless.core.model import Address, Entrance
from gapless.gateway.envoy.entries import LINE
from gapless.gateway.envoy.limits import rate_limit_filter, refusals
from gapless.gateway.envoy.retries import ELSEWHERE, FILTER, elsewhere, repeatable
from gapless.gateway.envoy.secrets import server_tls

Json = dict[str, Any]

NAME = "gapless"
"""The listener, its route configuration, its access log, and the bootstrap's cluster that leads to us."""
REDIRECT = "gapless-redirect"

LOG_FLUSH = "0.2s"
"""Entries of the access log arrive at most so long after their request ended: 0.2 s of a verdict's age for one write
per worker instead of one per request."""

LOG_BYTES = 256 * 1024
"""Or so much at once: some 2,000 entries, for one message instead of fifteen."""

HEADERS_TIMEOUT = "10s"
"""From a request's first byte to the end of its headers: nobody holds a connection by sending one byte a minute."""

STREAMS = 100
"""HTTP/2 requests at once on one connection (RFC 9113 §6.5.2 recommends no less)."""
WINDOW_BYTES, CONNECTION_WINDOW_BYTES = 64 * 1024, 1024 * 1024
"""Of HTTP/2: what a client may send unread. Envoy's own, 16 MiB for each request, is memory for clients to fill."""

CORS_FILTER, FAULT_FILTER = "envoy.filters.http.cors", "envoy.filters.http.fault"

AUTHORIZATION = "authorization"
"""The metadata in which a gateway elsewhere shows its token, as `Bearer TOKEN`."""

_TYPE = "type.googleapis.com/envoy.extensions."


def listeners(entrance: Entrance, token: str = "") -> dict[str, Json]:
    """name → envoy.config.listener.v3.Listener. `token`: what a gateway elsewhere shows with its access log."""
    manager = _http(entrance.proxies, token)
    found = {NAME: _listener(NAME, entrance.listen, manager, server_tls(len(entrance.certificates)))}
    if entrance.redirect:
        found[REDIRECT] = _listener(REDIRECT, entrance.redirect, _redirect(entrance.listen.port), {})
    return found


def _listener(name: str, listen: Address, manager: Json, tls: Json) -> Json:
    chain = {"filters": [{"name": "http", "typed_config": manager}], **tls}
    return {
        "name": name,
        "address": {"socket_address": {"address": listen.host, "port_value": listen.port}},
        # With SO_REUSEPORT a forgotten gateway on the same address would silently take half of the connections.
        "enable_reuse_port": False,
        "connection_balance_config": {"exact_balance": {}},  # one socket for all workers: share out what it accepts
        # The name that a client asks for chooses the certificate.
        **({"listener_filters": [_inspector()]} if tls else {}),
        "filter_chains": [chain],
    }


def _inspector() -> Json:
    inspector = {"@type": _TYPE + "filters.listener.tls_inspector.v3.TlsInspector"}
    return {"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}


def _manager(name: str) -> Json:
    return {
        "@type": _TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": True,
        # No client is trusted with x-envoy-* headers (retries, timeouts), not even one on this machine: nothing ever
        # comes from 0.0.0.0 (RFC 1122 §3.2.1.3).
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "0.0.0.0", "prefix_len": 32}]},  # noqa: S104
        "normalize_path": True,
        "request_headers_timeout": HEADERS_TIMEOUT,
    }


def _http(proxies: int, token: str) -> Json:
    """HTTP/1.1, and HTTP/2 by ALPN or by the client's preface."""
    return {
        **_manager(NAME),
        "xff_num_trusted_hops": proxies,
        "rds": {"route_config_name": NAME, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "preserve_external_request_id": True,  # a caller finds its request again by the id it gave
        "server_header_transformation": "PASS_THROUGH",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http2_protocol_options": {
            "max_concurrent_streams": STREAMS,
            "initial_stream_window_size": WINDOW_BYTES,
            "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
            "allow_connect": True,  # WebSockets over HTTP/2 (RFC 8441)
        },
        "access_log": [{"name": "envoy.access_loggers.open_telemetry", "typed_config": _access_log(token)}],
        "local_reply_config": refusals(),
        "http_filters": [
            # What is disabled costs nothing, until a route has something for it.
            _idle(CORS_FILTER, {"@type": _TYPE + "filters.http.cors.v3.Cors"}),
            {**rate_limit_filter(), "disabled": True},
            _idle(FAULT_FILTER, {"@type": _TYPE + "filters.http.fault.v3.HTTPFault"}),
            _idle(ELSEWHERE, elsewhere()),
            {"name": FILTER, "typed_config": repeatable()},
            {"name": "envoy.filters.http.router", "typed_config": _router()},
        ],
    }


def _idle(name: str, config: Json) -> Json:
    return {"name": name, "typed_config": config, "disabled": True}


def _redirect(port: int) -> Json:
    """Everybody to https, for good and with the same method (308)."""
    away = {"https_redirect": True, "port_redirect": port, "response_code": "PERMANENT_REDIRECT"}
    routes = [{"match": {"prefix": "/"}, "redirect": away}]
    return {
        **_manager(REDIRECT),
        "route_config": {
            "name": REDIRECT,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
            "ignore_port_in_host_matching": True,
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": _router()}],
    }


def _router() -> Json:
    return {
        "@type": _TYPE + "filters.http.router.v3.Router",
        "suppress_envoy_headers": True,
        # Counts per status and cluster, which we take from the access log: 6 % of what a request costs Envoy.
        "dynamic_stats": False,
    }


def control_service(token: str = "") -> Json:
    """The envoy.config.core.v3.GrpcService that leads to us, through the bootstrap's cluster."""
    shown = {"key": AUTHORIZATION, "value": f"Bearer {token}"}
    return {"envoy_grpc": {"cluster_name": NAME}, **({"initial_metadata": [shown]} if token else {})}


def _access_log(token: str) -> Json:
    # Envoy calls `common_config` deprecated; but 1.40 takes no notice of the interval and size that are to follow it.
    common = {
        "log_name": NAME,
        "grpc_service": control_service(token),
        "transport_api_version": "V3",
        "buffer_flush_interval": LOG_FLUSH,
        "buffer_size_bytes": LOG_BYTES,
    }
    return {
        "@type": _TYPE + "access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        "common_config": common,
        "disable_builtin_labels": True,
        "body": {"string_value": LINE},
    }

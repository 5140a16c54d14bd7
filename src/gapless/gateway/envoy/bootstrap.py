"""What Envoy is started with. Paths are relative to its working directory, so that a Unix socket's 107 bytes are not
spent on where the state directory lies."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gapless.core.model import Address
from gapless.gateway.envoy import faults, weights
from gapless.gateway.envoy.listener import NAME, control_service
from gapless.gateway.envoy.nodes import LISTEN, ZONE, Place

ADMIN_SOCKET = "admin.sock"
BOOTSTRAP = "bootstrap.json"

RECONNECT = {"base_interval": "0.100s", "max_interval": "1s"}
"""Envoy's own 0.5 … 30 s would leave a restarted control plane without its gateway for half a minute."""

CALM = {"connection_keepalive": {"interval": "10s", "timeout": "10s"}}
"""Of HTTP/2 to a control plane elsewhere: one whose machine is gone does not close its connections."""

LOGS_UNDER_WAY = 200
"""Then entries are lost: after ten seconds or more, for each worker sends some five messages a second."""

DRAIN_S = 600
"""How long a removed or changed listener lets its requests finish; `drain` decides by what is still under way."""

GONE_S = DRAIN_S + 10
"""When a new epoch ends the one before, if that is still there."""

MAX_WORKERS = 4
"""Envoy's threads: one of them proxies some 15,000 requests a second; the services need the other cores."""

_OTLP = "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"
RUNTIME = {
    "re2.max_program_size.error_level": 200_000,
    f"envoy.deprecated_features:{_OTLP}.common_config": True,
}
"""Envoy refuses expressions of more than 100 steps unless told otherwise: a list of users is one expression, and RE2
takes time by what it reads, whatever the expression. And a later Envoy may refuse what this one calls deprecated
(`listener._access_log`)."""

_COUNTED = ("control_plane.", "cluster_manager.", "listener_manager.", f"http.{NAME}.", "server.")
_COUNTED_PER_CLUSTER = (
    "upstream_rq_active",
    "upstream_rq_retry",
    "upstream_cx_active",
    "membership_healthy",
    "ejections_active",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Where a gateway elsewhere is told its routes, and what it shows there. The paths are absolute, of PEM files."""

    addresses: tuple[Address, ...]
    """Of control planes that take turns: one of them leads, and only that one is there. A host may also be a name."""
    token: str = field(default="", repr=False)
    ca: str = ""
    """With it, the control plane must show a certificate of one of these for its host."""
    cert: str = ""
    key: str = ""


def bootstrap(xds_socket: str) -> dict[str, Any]:
    """envoy.config.bootstrap.v3.Bootstrap; `xds_socket` is relative to Envoy's working directory."""
    return _bootstrap(
        {"id": NAME, "cluster": NAME}, _control("STATIC", {"endpoint": {"address": {"pipe": {"path": xds_socket}}}}), ""
    )


def bootstrap_away(control: Control, name: str, place: Place) -> dict[str, Any]:
    """The same for a gateway elsewhere, which says by its node's metadata where it is."""
    metadata = {LISTEN: str(place.listen), ZONE: place.zone}
    cluster = _control("STRICT_DNS", *map(_place, control.addresses), http2=CALM)
    cluster |= {"dns_lookup_family": "ALL"} | (_tls(control) if control.ca else {})
    return _bootstrap({"id": name, "cluster": NAME, "metadata": metadata}, cluster, control.token)


def _bootstrap(node: dict[str, Any], control: dict[str, Any], token: str) -> dict[str, Any]:
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": node,
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET, "mode": 0o600}}},
        "dynamic_resources": {"ads_config": _ads(token), "cds_config": ads, "lds_config": ads},
        "static_resources": {"clusters": [control]},
        "layered_runtime": {
            "layers": [
                {"name": "static", "static_layer": RUNTIME},
                _told("faults", faults.LAYER),
                _told("weights", weights.LAYER),
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": _patterns()}}},
    }


def _told(name: str, layer: str) -> dict[str, Any]:
    """A layer that the control plane sends."""
    source = {"ads": {}, "resource_api_version": "V3"}
    return {"name": name, "rtds_layer": {"name": layer, "rtds_config": source}}


def arguments(binary: Path, workers: int, base_id: int = 0, epoch: int = 0) -> list[str]:
    """argv. `base_id` is what the epochs of one gateway have in common; 0: without hot restart."""
    argv = [str(binary), "--config-path", BOOTSTRAP, "--concurrency", str(workers)]
    drain = ["--drain-strategy", "immediate", "--drain-time-s", str(DRAIN_S), "--log-level", "warning"]
    if not base_id:
        return [*argv, "--disable-hot-restart", *drain]
    hot = ["--base-id", str(base_id), "--restart-epoch", str(epoch), "--parent-shutdown-time-s", str(GONE_S)]
    # A predecessor that has died cannot be asked for its statistics, and Envoy takes that for its own end.
    hot.append("--skip-hot-restart-parent-stats")
    return [*argv, *hot, *drain]


def default_workers() -> int:
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0))))


def _ads(token: str) -> dict[str, Any]:
    service = control_service(token)
    service["envoy_grpc"]["retry_policy"] = {"retry_back_off": RECONNECT}
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [service],
    }


def _place(address: Address) -> dict[str, Any]:
    """An envoy.config.endpoint.v3.LbEndpoint, which says by its metadata whose certificate it must show."""
    where = {"socket_address": {"address": address.host, "port_value": address.port}}
    return {"endpoint": {"address": where}, "metadata": {"filter_metadata": {_MATCH: {_HOST: address.host}}}}


_MATCH, _HOST = "envoy.transport_socket_match", "host"


def _tls(control: Control) -> dict[str, Any]:
    hosts = dict.fromkeys(address.host for address in control.addresses)
    matches = [{"name": host, "match": {_HOST: host}, "transport_socket": _shown_by(control, host)} for host in hosts]
    return {"transport_socket_matches": matches}


def _shown_by(control: Control, host: str) -> dict[str, Any]:
    """It must be the host that was asked for; we show a certificate of our own if there is one."""
    kind = "IP_ADDRESS" if _is_ip(host) else "DNS"
    trust = {
        "trusted_ca": {"filename": control.ca},
        "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}],
    }
    pair = {"certificate_chain": {"filename": control.cert}, "private_key": {"filename": control.key}}
    context = {"validation_context": trust, **({"tls_certificates": [pair]} if control.cert else {})}
    config = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {**context, "alpn_protocols": ["h2"]},
        **({"sni": host} if kind == "DNS" else {}),
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _control(kind: str, *endpoints: dict[str, Any], http2: dict[str, Any] | None = None) -> dict[str, Any]:
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": NAME,
        "type": kind,
        "connect_timeout": "1s",
        # Each message of the access log is a request: one that a hanging control plane does not answer is kept here.
        "circuit_breakers": {"thresholds": [{"max_requests": LOGS_UNDER_WAY}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": http2 or {}},
            }
        },
        "load_assignment": {"cluster_name": NAME, "endpoints": [{"lb_endpoints": list(endpoints)}]},
    }


def _patterns() -> list[dict[str, str]]:
    return [*({"prefix": p} for p in _COUNTED), *({"suffix": "." + s} for s in _COUNTED_PER_CLUSTER)]

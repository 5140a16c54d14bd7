"""Certificates as Envoy's secrets. A new pair goes out as a new secret: the listener, and so every connection, stays.

A pair is read by us and not by Envoy, which would take whatever lies there: what does not fit together, or has expired,
is refused, and the old pair serves on.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gapless.core.errors import CertificateRefused
from gapless.core.model import Certificate
from gapless.core.validity import validity

Json = dict[str, Any]
Stamp = tuple[tuple[int, int, int], ...]

HANDSHAKE_TIMEOUT = "10s"

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_CIPHERS = (
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
"""Of TLS 1.2: forward secrecy and authenticated encryption, as RFC 9113 §9.2.2 asks for; 1.3 has no others."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What two PEM files hold."""

    cert: bytes
    key: bytes


def secret_name(number: int) -> str:
    return f"certificate-{number}"


def server_tls(certificates: int) -> Json:
    """What a filter chain adds to speak TLS with so many certificates; nothing without any."""
    if not certificates:
        return {}
    source = {"ads": {}, "resource_api_version": "V3"}
    configs = [{"name": secret_name(n), "sds_config": source} for n in range(certificates)]
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "cipher_suites": list(_CIPHERS)},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": configs,
    }
    context = {"@type": _TLS + "DownstreamTlsContext", "common_tls_context": common}
    return {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "transport_socket_connect_timeout": HANDSHAKE_TIMEOUT,
    }


def secrets(pairs: Sequence[Pair]) -> dict[str, Json]:
    """name → envoy.extensions.transport_sockets.tls.v3.Secret."""
    return {secret_name(n): _secret(secret_name(n), pair) for n, pair in enumerate(pairs)}


def _secret(name: str, pair: Pair) -> Json:
    parts = {"certificate_chain": pair.cert, "private_key": pair.key}
    told = {what: {"inline_bytes": base64.b64encode(content).decode()} for what, content in parts.items()}
    return {"name": name, "tls_certificate": told}


def stamp(certificate: Certificate) -> Stamp:
    """What changes when one of the files is written or replaced; zeros for one that is not there."""
    return tuple(_stamp(path) for path in (certificate.cert, certificate.key))


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_pair(certificate: Certificate, now_at: float) -> Pair:
    """Raises CertificateRefused: not there, no pair, or not valid at that moment."""
    _check(certificate)
    try:
        with open(certificate.cert, "rb") as cert, open(certificate.key, "rb") as key:
            pair = Pair(cert.read(), key.read())
    except OSError as error:
        raise _unreadable(certificate, error) from error
    _timely(certificate, pair, now_at)
    return pair


def _check(certificate: Certificate) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate.cert, certificate.key, _no_password)
    except ssl.SSLError as error:
        raise CertificateRefused(*_explain(error, certificate)) from error
    except OSError as error:
        raise _unreadable(certificate, error) from error


def _unreadable(certificate: Certificate, error: OSError) -> CertificateRefused:
    missing = next((p for p in (certificate.cert, certificate.key) if not os.access(p, os.R_OK)), certificate.cert)
    return CertificateRefused(f"{missing} cannot be read: {error.strerror}", "Put the pair there, readable for us.")


def _explain(error: ssl.SSLError, certificate: Certificate) -> tuple[str, str]:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{certificate.key} is not the key of {certificate.cert}", "Put the pair there that belongs together."
    what = f"{certificate.cert} and {certificate.key} are no certificate and key in PEM: {error.reason or error}"
    return what, "Put PEM files there: the chain, leaf first, and its key without a password."


def _no_password() -> str:
    """Else OpenSSL asks the terminal and waits for ever."""
    return ""


def _timely(certificate: Certificate, pair: Pair, now_at: float) -> None:
    try:
        valid = validity(pair.cert.decode("latin-1"))
    except ValueError as error:
        raise CertificateRefused(f"{certificate.cert}: {error}", "Put a certificate in PEM there.") from error
    if now_at > valid.ends_at:
        raise CertificateRefused(f"the certificate of {certificate.cert} expired on {_date(valid.ends_at)}")
    if now_at < valid.begins_at:
        raise CertificateRefused(f"the certificate of {certificate.cert} is not valid before {_date(valid.begins_at)}")


def _date(moment_at: float) -> str:
    return datetime.fromtimestamp(moment_at, UTC).isoformat(" ", "minutes")

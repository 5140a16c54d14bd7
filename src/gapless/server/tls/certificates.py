"""TLS: the certificate that new connections get, renewed as its files change, and what apps are told of it."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gapless.core.errors import ConfigError
from gapless.core.validity import validity
from gapless.server.settings import Task

_log = logging.getLogger("gapless.server")

H2, HTTP_1 = "h2", "http/1.1"
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption, as RFC 9113 §9.2.2 asks for; 1.3 has no others."""
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_NUMBERS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class Tls(NamedTuple):
    """Paths of PEM files. `cert`: the chain, leaf first; `client_ca`: clients need a certificate of one of these."""

    cert: str
    key: str
    client_ca: str = ""
    minimum: str = "1.2"

    @property
    def files(self) -> list[str]:
        return [path for path in (self.cert, self.key, self.client_ca) if path]


def tls_of(task: Task) -> Tls | None:
    return Tls(task.tls_cert, task.tls_key, task.tls_client_ca, task.tls_min) if task.tls_cert else None


Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """`context` is for the next connection; those that are there keep theirs. `now`: seconds since the epoch."""

    def __init__(self, tls: Tls, now: Callable[[], float]) -> None:
        """Raises ConfigError. A certificate that is not valid now is better than no server, and its clients'
        business: it is complained about."""
        self._tls = tls
        self._now = now
        self._loaded = self._seen = stamp(tls)
        self.context = make_context(tls)
        if why := untimely(tls, now()):
            _log.error("%s: clients will refuse it; renew it, and it is taken without a reload", why)

    def look(self) -> None:
        """To be called now and then. A pair is two files, which change one after the other: they are read when they
        have been the same at two looks. What cannot be used is refused, and looked at again when it has changed."""
        before, self._seen = self._seen, stamp(self._tls)
        if self._seen == self._loaded or self._seen != before:
            return
        self._loaded = self._seen
        try:
            context = make_context(self._tls)
            if why := untimely(self._tls, self._now()):
                raise ConfigError(why, "Put one there that is valid now.")
            self.context = context
        except ConfigError as error:
            _log.error("the new certificate is refused, the old one serves on: %s", error)
        else:
            _log.info("new connections get the new certificate of %s", self._tls.cert)


def untimely(tls: Tls, now_at: float) -> str:
    """Why clients will not accept the certificate today; empty when its time is right, or cannot be read."""
    try:
        with open(tls.cert) as file:
            valid = validity(file.read())
    except (OSError, ValueError) as error:
        _log.debug("cannot tell until when the certificate of %s is valid: %s", tls.cert, error)
        return ""
    if now_at > valid.ends_at:
        return f"the certificate of {tls.cert} expired on {date(valid.ends_at)}"
    if now_at < valid.begins_at:
        return f"the certificate of {tls.cert} is not valid before {date(valid.begins_at)}"
    return ""


def date(moment_at: float) -> str:
    return datetime.fromtimestamp(moment_at, UTC).isoformat(" ", "minutes")


def stamp(tls: Tls) -> Stamp:
    """What changes when a file is written or replaced, also through a link; zeros for one that is not there."""
    return tuple(_stamp(path) for path in tls.files)


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def make_context(tls: Tls) -> ssl.SSLContext:
    """Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.minimum]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([H2, HTTP_1])
    _load_pair(context, tls)
    if tls.client_ca:
        _load_client_ca(context, tls.client_ca)
    return context


def _load_pair(context: ssl.SSLContext, tls: Tls) -> None:
    try:
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(*_explain(error, tls)) from error
    except OSError as error:
        missing = next((path for path in (tls.cert, tls.key) if not os.access(path, os.R_OK)), tls.cert)
        raise ConfigError(f"{missing} cannot be read: {error.strerror}", "Give --tls-cert and --tls-key.") from error


def _explain(error: ssl.SSLError, tls: Tls) -> tuple[str, str]:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{tls.key} is not the key of {tls.cert}", "Give the pair that belongs together."
    reason = error.reason or str(error)
    return f"{tls.cert} and {tls.key} are no certificate and key in PEM: {reason}", "Give PEM files, the leaf first."


def _no_password() -> str:
    """Else OpenSSL asks the terminal, and the worker waits for ever."""
    raise ConfigError(
        "the private key is encrypted", "Decrypt it, for instance by `openssl pkey`, and protect the file."
    )


def _load_client_ca(context: ssl.SSLContext, path: str) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"{path} holds no certificates in PEM", "Give --tls-client-ca a bundle.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "Give --tls-client-ca a bundle.") from error


def extension(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """ASGI's `tls` extension: what the app may want to know of the connection; None without TLS."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return None
    der = tls.getpeercert(binary_form=True)
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else [],
        "client_cert_name": _name(tls.getpeercert()) if der else None,
        "client_cert_error": None,
        "tls_version": _NUMBERS.get(tls.version()),
        "cipher_suite": None,
    }


_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
}


def _name(certificate: Any) -> str:
    """The subject as RFC 4514 writes it: the most specific part first."""
    parts = [pair for group in certificate.get("subject", ()) for pair in group]
    return ",".join(f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in reversed(parts))


def _escaped(value: str) -> str:
    return "".join("\\" + letter if letter in ',+"\\<>;=' else letter for letter in value)

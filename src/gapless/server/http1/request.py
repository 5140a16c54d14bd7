"""What the head of an HTTP/1.1 request means, after the parser has split it. Pure.

The parser (llhttp, strict) refuses by itself: bare CR or LF, folded lines, spaces before a colon, control characters,
two lengths, a length beside a transfer coding, lengths and chunk sizes that are no plain numbers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import httptools

from gapless.server.http.client_limits import ClientLimits

HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
"""A name, an IPv4 or a bracketed IPv6 address, with a port or without (RFC 9110 §7.2)."""

Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """The status that a request gets instead of an answer by the app."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Target(NamedTuple):
    path: bytes
    query: bytes
    host: bytes | None = None
    """Given in the target itself, which then counts, not the header (RFC 9112 §3.2.2)."""


def check_version(version: str) -> None:
    """Raises Refused."""
    if version == "0.9":
        raise Refused(400, "HTTP/0.9")
    if version not in ("1.0", "1.1"):
        raise Refused(505, f"HTTP/{version} on a connection of HTTP/1")


def check_sizes(target: bytes, headers: Headers, limits: ClientLimits) -> None:
    """Raises Refused."""
    if limits.line_bytes and len(target) > limits.line_bytes:
        raise Refused(414, f"a target of {len(target)} bytes")
    if limits.header_count and len(headers) > limits.header_count:
        raise Refused(431, f"{len(headers)} header fields")
    if limits.header_bytes and size(headers) > limits.header_bytes:
        raise Refused(431, f"{size(headers)} bytes of header fields")


def size(headers: Headers) -> int:
    """With colon, space and line end of each."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


def check_host(host: bytes) -> None:
    """Raises Refused."""
    if not HOST.fullmatch(host):
        raise Refused(400, f"the host {host!r}")


def check_fields(headers: Headers, version: str) -> None:
    """What may stand in a request only once, or only in one form. Raises Refused."""
    names = [name for name, _ in headers]
    if names.count(b"host") > 1 or (version == "1.1" and b"host" not in names):
        raise Refused(400, f"{names.count(b'host')} Host fields")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and version != "1.1":
        raise Refused(400, f"a transfer coding in HTTP/{version}")
    if len(codings) > 1 or (codings and codings[0].lower() != b"chunked"):
        raise Refused(501 if len(codings) == 1 else 400, f"transfer codings {codings}")


def read_target(method: str, target: bytes) -> Target:
    """Of any form (RFC 9112 §3.2). Raises Refused."""
    if b"#" in target:
        raise Refused(400, "a fragment in the target")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return Target(path, query)
    if target == b"*":
        if method != "OPTIONS":
            raise Refused(400, f"{method} *")
        return Target(target, b"")
    return _absolute(target)


def _absolute(target: bytes) -> Target:
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError as error:
        raise Refused(400, f"the target {target!r}") from error
    if url.schema is None or url.schema.lower() not in (b"http", b"https") or not url.host or url.userinfo:
        raise Refused(400, f"the target {target!r}")
    authority = target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
    check_host(authority)
    return Target(url.path or b"/", url.query or b"", authority)


def told(host: bytes, headers: Headers) -> Headers:
    """The headers with the host that the target names."""
    return [(b"host", host), *(field for field in headers if field[0] != b"host")]

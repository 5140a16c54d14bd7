"""Header fields between HTTP/2 and ASGI (RFC 9113 §8, RFC 9110 §5). Pure.

Whatever could mean one thing to us and another thing to somebody behind or before us is refused, not repaired.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from hpack import NeverIndexedHeaderTuple

from gapless.server.http.client_limits import ClientLimits

Field = tuple[bytes, bytes]

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\A[ \t]|[ \t]\Z").search
_BAD_SENT_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*").fullmatch
_AUTHORITY = re.compile(rb"[\w.~!$&'()*+,;=:%\[\]-]+").fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch
_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
_OF_THE_CONNECTION = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_FIELD_OVERHEAD = 32
"""RFC 9113 §6.5.2 counts a field so much greater than its name and value."""


class Malformed(Exception):
    """The stream must end with PROTOCOL_ERROR."""


class Request(NamedTuple):
    """`fields` begin with `host`; cookies are one field. `length` is what content-length says, -1 without one."""

    method: str
    raw_path: bytes
    query: bytes
    fields: list[Field]
    length: int
    continues: bool
    """It waits for 100 (Continue) before it sends its body."""


def read_request(fields: Iterable[Field]) -> Request:
    """What the header block of a request says. Raises Malformed."""
    pseudo, regular = _split(fields)
    method = pseudo.get(b":method", b"")
    if not _METHOD(method):
        raise Malformed(f"method {method!r}")
    if method == b"CONNECT":
        return Request("CONNECT", b"", b"", regular, -1, False)
    path = pseudo.get(b":path", b"")
    if not _PATH(path) and (path, method) != (b"*", b"OPTIONS"):
        raise Malformed(f"path {path!r}")
    if pseudo.get(b":scheme") not in (b"http", b"https"):
        raise Malformed(f"scheme {pseudo.get(b':scheme')!r}")
    raw_path, _, query = path.partition(b"?")
    fields = _with_host(pseudo.get(b":authority"), regular)
    return Request(method.decode("ascii"), raw_path, query, _join_cookies(fields), _length(fields), _continues(fields))


def read_trailers(fields: Iterable[Field]) -> list[Field]:
    """Raises Malformed."""
    pseudo, regular = _split(fields)
    if pseudo:
        raise Malformed(f"{next(iter(pseudo))!r} in trailers")
    return regular


def refusal_of(request: Request, fields: Iterable[Field], limits: ClientLimits) -> int:
    """The status of a request that no app gets to see; 0 for the others. `fields` as they came."""
    if limits.header_bytes and size_of(fields) > limits.header_bytes:
        return 431
    if limits.header_count and len(request.fields) > limits.header_count:
        return 431
    if limits.line_bytes and len(request.raw_path) + len(request.query) > limits.line_bytes:
        return 414
    if limits.body_bytes and request.length > limits.body_bytes:
        return 413
    return 501 if request.method == "CONNECT" else 0


def size_of(fields: Iterable[Field]) -> int:
    """As SETTINGS_MAX_HEADER_LIST_SIZE counts."""
    return sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields)


def _split(fields: Iterable[Field]) -> tuple[dict[bytes, bytes], list[Field]]:
    pseudo: dict[bytes, bytes] = {}
    regular: list[Field] = []
    for name, value in fields:
        if name[:1] != b":":
            _check(name, value)
            regular.append((name, value))
        elif regular or name in pseudo or name not in _PSEUDO:
            raise Malformed(f"pseudo-header {name!r}")
        else:
            pseudo[name] = value
    return pseudo, regular


def _check(name: bytes, value: bytes) -> None:
    if not _NAME(name):
        raise Malformed(f"field name {name!r}")
    if value and _BAD_VALUE(value):
        raise Malformed(f"value of {name!r}")
    if name in _OF_THE_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed(f"{name!r} belongs to HTTP/1.1")


def _with_host(authority: bytes | None, fields: list[Field]) -> list[Field]:
    """`host` first, from :authority, which a `host` beside it must not contradict."""
    hosts = [value for name, value in fields if name == b"host"]
    host = authority if authority is not None else (hosts[0] if hosts else b"")
    if not _AUTHORITY(host) or len(hosts) > 1 or (hosts and hosts[0].lower() != host.lower()):
        raise Malformed(f":authority {authority!r}, host {hosts!r}")
    return [(b"host", host), *(field for field in fields if field[0] != b"host")]


def _join_cookies(fields: list[Field]) -> list[Field]:
    """HTTP/2 may split what must be one field elsewhere (RFC 9113 §8.2.3)."""
    cookies = [value for name, value in fields if name == b"cookie"]
    if len(cookies) < 2:
        return fields
    return [*(field for field in fields if field[0] != b"cookie"), (b"cookie", b"; ".join(cookies))]


def _length(fields: list[Field]) -> int:
    found = [value for name, value in fields if name == b"content-length"]
    if not found:
        return -1
    if len(found) > 1 or not _LENGTH(found[0]):
        raise Malformed(f"content-length {found!r}")
    return int(found[0])


def _continues(fields: list[Field]) -> bool:
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in fields)


# What is sent.


class Response(NamedTuple):
    """`length` is what the app's content-length says, -1 without one."""

    fields: list[Field]
    length: int


def write_response(status: int, headers: Iterable[Field], defaults: Iterable[Field]) -> Response:
    """The header block of a final response; `defaults` are added where the app says nothing. Raises RuntimeError for
    what must not be sent."""
    if not 200 <= status <= 599:
        raise RuntimeError(f"status {status} is no final response of HTTP/2; answer with 200 to 599")
    fields: list[Field] = [(b":status", b"%d" % status), *write_fields(headers)]
    names = {name for name, _ in fields}
    fields += [field for field in defaults if field[0] not in names]
    return Response(fields, _sent_length(fields) if b"content-length" in names else -1)


def write_fields(headers: Iterable[Field]) -> list[Field]:
    """Those of the app in lower case, without the ones that only HTTP/1.1 has. Raises RuntimeError."""
    fields: list[Field] = []
    for given, value in headers:
        name = given.lower()
        if not _NAME(name) or _BAD_SENT_VALUE(value):
            raise RuntimeError(f"header {given!r}: {value!r} cannot be sent")
        if name == b"set-cookie":
            fields.append(
                NeverIndexedHeaderTuple(name, value.strip(b" \t"))
            )  # no table shared with others shall know it
        elif name not in _OF_THE_CONNECTION:
            fields.append((name, value.strip(b" \t")))
    return fields


def _sent_length(fields: list[Field]) -> int:
    found = {value for name, value in fields if name == b"content-length"}
    if len(found) > 1 or not _LENGTH(next(iter(found))):
        raise RuntimeError(f"content-length {sorted(found)!r} cannot be sent")
    return int(found.pop())

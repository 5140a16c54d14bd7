"""The head of an HTTP/1.1 response in bytes, and what it says about the body that follows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
LEGAL = bytes(code for code in range(256) if code in b"\t\r\n" or (code >= 0x20 and code != 0x7F))
"""What a head may consist of (RFC 9110 §5.5); that CR and LF stand only at the ends of lines is counted."""
BODYLESS = frozenset({204, 304})

PLAIN, LENGTH, CODING, CONNECTION, KEEP_ALIVE, DATE = range(6)
_SPECIAL = {
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"keep-alive": KEEP_ALIVE,
    b"date": DATE,
}
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
STATUS_LINES = {code: b"HTTP/1.1 %d %s" % (code, _PHRASES.get(code, b"")) for code in range(200, 600)}


class BadResponse(RuntimeError):
    """What the app said is no HTTP response."""


Head = tuple[bytes, int | None, bool, bool]
"""The lines without what is the server's business (framing, connection, the empty line); the body's length, None where
the app has not said it; whether it wants the connection closed; whether it has given the date. No named tuple: one is
made for each response, at five times the cost."""


@lru_cache(maxsize=1024)
def _field(name: bytes) -> tuple[bytes, int]:
    """How a header's line begins, and whether it needs a look. Raises BadResponse."""
    if not name or not TOKEN.issuperset(name):
        raise BadResponse(f"the header name {name!r} has characters that HTTP does not allow")
    name = name.lower()
    return b"\r\n%b: " % name, _SPECIAL.get(name, PLAIN)


def head_of(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Raises BadResponse."""
    line = STATUS_LINES.get(status)
    if line is None:
        raise BadResponse(f"{status!r} is no status of a response; use one from 200 to 599")
    parts = [line]
    length: int | None = None
    close = dated = False
    for name, value in headers:
        start, kind = _field(name)
        if kind == PLAIN:
            parts += (start, value)
        elif kind == LENGTH:
            length = _length(value, length)
        elif kind == DATE:
            dated = True
            parts += (start, value)
        else:
            close = _hop(kind, value) or close
    text = b"".join(parts)
    _check(text, len(parts) // 2)
    return text, length, close, dated


def _check(text: bytes, lines: int) -> None:
    """No header brings a line of its own with it, or control characters."""
    if text.count(b"\n") != lines or text.count(b"\r") != lines or text.translate(None, LEGAL):
        raise BadResponse(f"a header of the response has characters that HTTP does not allow: {text!r}")


def _hop(kind: int, value: bytes) -> bool:
    """Of what is said about the connection: whether it is to be closed. `chunked` may be said, as it is what happens
    without a length anyway."""
    if kind == CODING and value.strip().lower() != b"chunked":
        raise BadResponse(f"transfer-encoding {value!r} is the server's business; say nothing or `chunked`")
    return kind == CONNECTION and b"close" in value.lower()


def _length(value: bytes, known: int | None) -> int:
    length = int(value) if value.isdigit() else -1
    if length < 0 or known not in (None, length):
        raise BadResponse(f"content-length {value!r} is not one whole number")
    return length


def whole(status: int, tail: bytes, extra: bytes = b"") -> bytes:
    """A response by the server itself, with its reason as the body. `extra` are lines like a Head's, `tail` ends the
    head."""
    body = _PHRASES.get(status, b"Error") + b"\n"
    rest = b"\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d" % len(body)
    return b"".join((STATUS_LINES[status], rest, extra, tail, body))

"""What a handler gives back, and the refusals that it may raise, with the statuses and texts of Consul."""

from __future__ import annotations

from typing import Any

import msgspec

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    body: bytes = b""
    status: int = 200
    index: int = 0
    """For indexed reads (404 too): told as X-Consul-Index, at least 1. 0: this is none."""
    kind: bytes = JSON
    """The content type; `pretty` reformats JSON only."""
    extra: tuple[tuple[bytes, bytes], ...] = ()
    """Further headers."""


DONE = Answer(b"", kind=TEXT)
"""A write that has nothing to tell: 200 and an empty body."""
TRUE = Answer(b"true")
FALSE = Answer(b"false")


def told(value: Any, index: int = 0) -> Answer:
    """The value as JSON."""
    return Answer(encode(value), index=index)


class Refusal(Exception):
    """The request is answered by this status and text. The text is for people; clients look at the status."""

    def __init__(self, status: int, text: str, extra: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.extra = extra


def bad_request(text: str) -> Refusal:
    return Refusal(400, text)


def not_found(text: str) -> Refusal:
    return Refusal(404, text)


def failed(text: str) -> Refusal:
    """Consul answers 500 to many a mistake of its clients; they count on it."""
    return Refusal(500, text)


def wrong_method(method: str, allowed: str) -> Refusal:
    return Refusal(405, f"method {method} not allowed", ((b"allow", allowed.encode()),))


def too_large(limit: int, size: int | None = None) -> Refusal:
    what = "Request body" if size is None else f"Request body({size} bytes)"
    return Refusal(413, f"{what} too large, max size: {limit} bytes.")

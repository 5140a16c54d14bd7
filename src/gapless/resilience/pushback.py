"""Retry pushback: what was asked again in vain is not asked again further up.

The shares of hops that ask again multiply. So a service that asked again in vain while it served a request (or would
have, but for its budget) says so on its failing answer: `x-gapless-retried: 1`, in gRPC's trailing metadata
`grpc-retry-pushback-ms: -1` (gRFC A6). To whoever gets it that answer is final, and its own failing answer says so too.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

HEADER = b"x-gapless-retried"
NAME = HEADER.decode()
GRPC_KEY = "grpc-retry-pushback-ms"
FAILED_FROM = 500


class Served(Protocol):
    """A request that is being served."""

    headers: Mapping[bytes, bytes]

    def retries_spent(self) -> None:
        """If its answer is a failure, that is final."""


served: ContextVar[Served | None] = ContextVar("gapless_served", default=None)
"""The present request: one value for all tasks that work for it."""
finals: ContextVar[int] = ContextVar("gapless_finals", default=0)
"""How many final failures this task has met. Whoever compares it before and after an attempt knows whether that met
one; tasks beside it do not disturb, since each counts in a context of its own."""


def spent() -> None:
    """Asking again was of no avail: the present request's callers shall not do it once more."""
    present = served.get()
    if present is not None:
        present.retries_spent()


def final() -> None:
    """The same, and the attempts around this one shall not do so either."""
    finals.set(finals.get() + 1)
    spent()


def is_final(outcome: Any) -> bool:
    """Whether a response, or an exception with one or with trailing metadata, says that it is final."""
    if pushed_back(_trailing(outcome)):
        return True
    for each in (outcome, getattr(outcome, "response", None)):
        headers = getattr(each, "headers", None)
        if isinstance(headers, Mapping) and NAME in headers:
            return True
    return False


def answers_finally(status: int, headers: Mapping[str, str]) -> bool:
    """Only failures can be final: a header that was copied to a good answer says nothing."""
    return status >= FAILED_FROM and NAME in headers


def _trailing(outcome: Any) -> Any:
    """What gRPC's errors have, of grpc.aio and of grpc."""
    tell = getattr(outcome, "trailing_metadata", None)
    return tell() if callable(tell) and isinstance(outcome, BaseException) else None


def asks_not_again(value: str | bytes) -> bool:
    """By gRFC A6 whatever is no count of milliseconds means: not at all."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return not (text.isascii() and text.isdigit())


def pushed_back(metadata: Any) -> bool:
    """Whether the trailing metadata of a failed call say that it is final."""
    return any(key == GRPC_KEY and asks_not_again(value) for key, value in metadata or ())

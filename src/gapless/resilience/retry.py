"""When to ask again: pure decisions; who asks and who waits is the caller.

Two kinds of failure are told apart. An *unsent* request has reached nobody: asking somebody else is safe for every
method and puts no load on anyone. A *sent* one may have had its effect: only what may be repeated is sent again, and
only out of a budget that is a share of the traffic, so that retries never turn an overload into an outage
(resilience4j#172; the Google SRE book, ch. 22).
"""

from __future__ import annotations

from gapless.core.value import Value
from gapless.resilience.budget import Ratio
from gapless.resilience.deadline import LONGEST_DIGITS

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Idempotent by RFC 9110 §9.2.2."""
RETRIED_STATUSES = frozenset({502, 503, 504})
"""Answers of somebody who could not answer, rather than of the application."""


RATIO = Ratio()


class RetryPolicy(Value):
    attempts: int = 3
    """Sent attempts of one call, the first included; in an outage the budget bounds them before this does."""
    rounds: int = 10
    """Rounds over all instances in which nobody could be reached. They load no one, so that the budget does not count
    them; with the waits in between they outlast the replacement of a crashed instance."""
    base_s: float = 0.025
    cap_s: float = 0.25
    """Full jitter: a wait is uniform in [0, min(cap, base · 2ⁿ)]; it spreads a herd and is short beside a deadline."""
    budget: Ratio = RATIO


def repeatable(method: str, idempotency_key: str) -> bool:
    """May a request that was perhaps answered be sent again?"""
    return method in SAFE_METHODS or bool(idempotency_key)


def backoff(base_s: float, cap_s: float, attempt: int, dice: float) -> float:
    """Seconds to wait after the `attempt`-th failure (from 1). `dice` is uniform in [0, 1): full jitter."""
    return dice * min(cap_s, base_s * 2.0 ** min(max(attempt - 1, 0), 30))


def retry_after_s(value: str | bytes | float | None, time: float) -> float:
    """Seconds that a Retry-After asks to wait (RFC 9110 §10.2.3): a number or an HTTP date, which is why the time of
    day is asked for. 0 for what is neither: a bad header must not fail a call."""
    if isinstance(value, int | float):
        return max(float(value), 0.0)
    text = value.decode("latin-1") if isinstance(value, bytes) else value or ""
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= LONGEST_DIGITS else 0.0
    return max(_date(text) - time, 0.0) if text.endswith("GMT") else 0.0


def _date(text: str) -> float:
    from email.utils import parsedate_to_datetime  # 5 ms of imports that few need

    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return 0.0

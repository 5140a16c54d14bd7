"""When to ask again: pure decisions; who asks and who waits is the caller.

Two kinds of failure are told apart. An *unsent* request has reached nobody: asking somebody else is safe for every
method and puts no load on anyone. A *sent* one may have had its effect: only what may be repeated is sent again, and
only out of a budget that is a share of the traffic, so that retries never turn an overload into an outage
(resilience4j#172; the Google SRE book, ch. 22).
"""

from __future__ import annotations

from dataclasses import dataclass

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Idempotent by RFC 9110 §9.2.2."""
RETRIED_STATUSES = frozenset({502, 503, 504})
"""Answers of somebody who could not answer, rather than of the application."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    attempts: int = 3
    """Sent attempts of one call, the first included; in an outage the budget bounds them before this does."""
    rounds: int = 10
    """Rounds over all instances in which nobody could be reached. They load no one, so that the budget does not count
    them; with the waits in between they outlast the replacement of a crashed instance."""
    base_s: float = 0.025
    cap_s: float = 0.25
    """Full jitter: a wait is uniform in [0, min(cap, base · 2ⁿ)]; it spreads a herd and is short beside a deadline."""
    ratio: float = 0.2
    """Retries per request in the long run."""
    floor_per_s: float = 1.0
    """Retries that are always granted, so that a quiet service may retry its rare requests."""
    burst: float = 10.0
    """The most that a budget saves up."""


def repeatable(method: str, idempotency_key: str) -> bool:
    """May a request that was perhaps answered be sent again?"""
    return method in SAFE_METHODS or bool(idempotency_key)


def backoff(policy: RetryPolicy, attempt: int, dice: float) -> float:
    """Seconds to wait after the `attempt`-th failure (from 1). `dice` is uniform in [0, 1)."""
    return dice * min(policy.cap_s, policy.base_s * 2.0 ** min(max(attempt - 1, 0), 30))


@dataclass(slots=True)
class Budget:
    """Tokens: each request adds `ratio`, time adds `floor_per_s`, each retry takes one."""

    policy: RetryPolicy
    tokens: float = 0.0
    at: float = 0.0

    @classmethod
    def full(cls, policy: RetryPolicy, now: float) -> Budget:
        return cls(policy, policy.burst, now)

    def deposit(self, now: float) -> None:
        """A request was begun."""
        self._refill(now)
        self.tokens = min(self.tokens + self.policy.ratio, self.policy.burst)

    def withdraw(self, now: float) -> bool:
        """Take a token for a retry; False when there is none."""
        self._refill(now)
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def _refill(self, now: float) -> None:
        grown = self.tokens + max(now - self.at, 0.0) * self.policy.floor_per_s
        self.tokens, self.at = min(grown, self.policy.burst), now

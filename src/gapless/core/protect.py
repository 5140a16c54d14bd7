"""`protect:` of gapless.yaml as frozen values: the policies before a service or a route.

The gateway makes Envoy's means of them (`gateway.envoy.limits`), an instance makes guards (`service.protect_rules`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRule:
    """At most `limit` requests in `per_s` seconds; `burst` at once (0: as many as `limit`)."""

    limit: int
    per_s: float = 1.0
    burst: int = 0
    by: str = ""
    """Whom it counts: "" everybody together, "user" each `x-user-id` (without one: its address), "address" each."""
    shared: str = ""
    """The Redis on which all workers and instances count together, as a URL; empty: each worker counts for itself."""
    leased: bool = False
    """Whether they count in the background there, without a round trip for each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRule:
    """At most `max` requests at once in each worker; `adaptive`: fewer as soon as latency rises."""

    max: int
    adaptive: bool = False
    queue: int = 0
    """How many may wait for a place."""
    wait_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRule:
    """Refuse while at least `rate` of the last calls failed or were slow. Of the window, either `window_calls` or
    `window_s` is set."""

    rate: float = 0.5
    slow_s: float = 0.0
    """What takes longer counts as failed; 0: nothing does."""
    window_calls: int = 0
    window_s: float = 10.0
    minimum: int = 20
    """No verdict on fewer."""
    open_for_s: float = 5.0
    probes: int = 3
    """Calls let through after `open_for_s`, to see whether it can close."""
    max_requests: int = 0
    """What the gateway lets run, and as many wait, for each release at once; 0: Gapless's own high bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protect:
    """The policies that stand before a service, or before one of its routes."""

    deadline_s: float = 0.0
    """0: none but the service's own."""
    rate: RateRule | None = None
    limit: LimitRule | None = None
    breaker: BreakerRule | None = None

    def over(self, wider: Protect | None) -> Protect:
        """These policies, and those of the wider one whose kind is not here."""
        if wider is None:
            return self
        return Protect(
            deadline_s=self.deadline_s or wider.deadline_s,
            rate=self.rate or wider.rate,
            limit=self.limit or wider.limit,
            breaker=self.breaker or wider.breaker,
        )

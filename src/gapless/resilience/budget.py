"""How much may be asked again: a share of the traffic, so that retries and hedges never turn an overload into an outage
(resilience4j#172; the Google SRE book, ch. 22)."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from gapless.core.value import Value

if TYPE_CHECKING:
    from gapless.core.ports import World


class Ratio(Value, kw_only=False):
    """Retries and hedges per call in the long run."""

    share: float = 0.2
    floor_per_s: float = 1.0
    """At least so many, where the share is less: a quiet service may repeat its rare calls."""
    burst: float = 10.0
    """The most that a budget saves up."""


def ratio(share: float = 0.2, *, floor_per_s: float = 1.0, burst: float = 10.0) -> Ratio:
    """At most `share` repetitions per call (or `floor_per_s`, where that is more), and `burst` at once."""
    return Ratio(share, floor_per_s, burst)


class Budget:
    """Tokens: calls add their share, or time the floor where that is more; each repetition takes one.

    A deposit is one addition: what it is worth is worked out at the next withdrawal. As only withdrawals make tokens
    fewer, capping the sum then is the same as capping it at each deposit.
    """

    __slots__ = ("_at", "_counted", "_lock", "_now", "calls", "ratio", "tokens")

    def __init__(self, ratio: Ratio, world: World) -> None:
        self.ratio = ratio
        self.tokens = ratio.burst
        self.calls = 0
        """Raise it by one for each call (`budget.calls += 1`)."""
        self._counted = 0
        self._now = world.now
        self._at = world.now()
        self._lock = Lock()

    def withdraw(self) -> bool:
        """Take a token for a repetition; False when there is none."""
        with self._lock:
            self._refill()
            if self.tokens < 1.0:
                return False
            self.tokens -= 1.0
            return True

    def refund(self) -> None:
        """Give a token back that was not used after all."""
        with self._lock:
            self.tokens = min(self.tokens + 1.0, self.ratio.burst)

    def left(self) -> float:
        """Tokens that there are now."""
        with self._lock:
            self._refill()
            return self.tokens

    def inherit(self, tokens: float, then: float) -> None:
        """What another process had left at the moment `then`; time has added its floor since."""
        with self._lock:
            self._refill()
            earned = max(self._at - then, 0.0) * self.ratio.floor_per_s
            self.tokens = min(tokens + earned, self.tokens, self.ratio.burst)

    def _refill(self) -> None:
        now, calls, ratio = self._now(), self.calls, self.ratio
        earned = max((calls - self._counted) * ratio.share, (now - self._at) * ratio.floor_per_s)
        self.tokens = min(self.tokens + earned, ratio.burst)
        self._counted, self._at = calls, now

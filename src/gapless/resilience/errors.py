"""What a guard raises by itself; what the guarded function raises passes through unchanged.

`Rejected` is the root of all refusals: whoever catches it knows that the guarded function was not run (or not to its
end, for `DeadlineExceeded`) and after how many seconds asking again makes sense.
"""

from __future__ import annotations

from gapless.core.errors import GaplessError


class Rejected(GaplessError):
    """The guard refused the call."""

    sent = False
    """Nothing has reached the other side, so that asking again is safe for every call."""

    def __init__(
        self,
        what: str = "",
        remedy: str = "",
        *,
        policy: str = "",
        guard: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what, remedy)
        self.policy, self.guard = policy, guard
        self.retry_after_s = retry_after_s
        """Seconds until another call may be admitted; None when nobody knows."""


class BreakerOpen(Rejected):
    """The breaker is open: the other side fails too often to be asked now."""


class RateLimited(Rejected):
    """More calls than the rate allows."""


class Overloaded(Rejected):
    """As many calls as can be served are under way, and the queue has no place for this one."""


class DeadlineExceeded(Rejected, TimeoutError):
    """The deadline passed before there was an answer."""

    sent = True
    """It may have been begun; `started` says so."""

    def __init__(
        self,
        what: str = "",
        remedy: str = "",
        *,
        policy: str = "deadline",
        guard: str = "",
        started: bool = True,
    ) -> None:
        super().__init__(what, remedy, policy=policy, guard=guard)
        self.started = started
        self.sent = started


class PoolTimeout(Rejected, TimeoutError):
    """No connection became free in time."""


class Transient(GaplessError):
    """It failed in a way that may pass: another attempt may succeed."""

    sent = True
    retry_after_s: float | None = None


class Unsent(Transient):
    """Nobody was reached, so that asking again is safe for every call."""

    sent = False

"""What guards tell those who have subscribed. Nobody subscribed: no event is made, only counters rise.

if binding.hooks:
    binding.emit(CallRejected(guard=binding.guard, policy="rate", reason="100/s", key=key))
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from gapless.core.value import Value

_log = logging.getLogger("gapless.guard")


class GuardEvent(Value):
    """`policy` is the kind of the policy that speaks; empty when it is the guard itself."""

    guard: str
    policy: str = ""


class CallRejected(GuardEvent):
    """A call was refused (in shadow mode: would have been)."""

    reason: str = ""
    key: Any = None
    retry_after_s: float | None = None
    shadow: bool = False


class CallRetried(GuardEvent):
    """Attempt number `attempt` (from 1) failed; another one follows after `wait_s`."""

    attempt: int
    wait_s: float
    error: BaseException | None = None


class RetriesSpent(GuardEvent):
    """A failed call is not tried again: `reason` is "attempts", "budget", "deadline", "not idempotent" or "pushback"
    (asked again further down already)."""

    reason: str
    attempt: int
    error: BaseException | None = None


class CallHedged(GuardEvent):
    """A second attempt was started because the first has taken `after_s`."""

    after_s: float


class HedgeEnded(GuardEvent):
    """`winner` is 1 for the first attempt, 2 for the second …"""

    winner: int


class DeadlineExpired(GuardEvent):
    """`started` is False when the call was refused because no time was left."""

    limit_s: float
    started: bool = True


class FellBack(GuardEvent):
    """The fallback answered instead."""

    error: BaseException


class BreakerChanged(GuardEvent):
    """The breaker went `before` → `after`: closed, open, half-open, or one of the forced states."""

    before: str
    after: str
    reason: str = ""


class LimitChanged(GuardEvent):
    """The adaptive limit moved."""

    before: float
    after: float


class SharedStateLost(GuardEvent):
    """The shared store is away (or back, `lost` False); the policy goes on with its local share."""

    lost: bool
    detail: str = ""


class LeakFound(GuardEvent):
    """A connection is out for longer than is plausible; `place` is where it was checked out."""

    place: str
    age_s: float


class Reloaded(GuardEvent):
    """The guard's policies were replaced."""

    before: tuple[Any, ...]
    after: tuple[Any, ...]


GuardHook = Callable[[GuardEvent], None]
"""It must not block; what it raises is logged and goes no further."""


def tell(hooks: tuple[GuardHook, ...], event: GuardEvent) -> None:
    for hook in hooks:
        try:
            hook(event)
        except Exception:  # noqa: BLE001 an observer must never break what it observes
            _log.exception("hook %r failed on %r", hook, event)

"""limit(…): so many calls at once and no more, a short queue before them, and the courage to say no.

    limit(20)                                              # bulkhead: the 21st is refused
    limit(20, queue=50, wait=0.5)                # it waits, but not for long and not in a standing queue
    limit(adaptive(max=200), queue=100, priority="{tier}") # as many as the other side bears; the important first

No wait goes beyond the deadline. Whoever is cancelled while it waits leaves no place behind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import ClassVar, Literal, get_args

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience.limit_adaptive import Adaptive, adaptive
from gapless.resilience.limit_layer import LimitLayer
from gapless.resilience.limit_shed import Codel, Priority, codel, priority
from gapless.resilience.policy import Binding

__all__ = ["Adaptive", "Codel", "Limit", "LimitLayer", "Priority", "adaptive", "codel", "limit", "priority"]

Order = Literal["fifo", "adaptive"]


class Limit(Value):
    """See `limit`."""

    kind: ClassVar[str] = "limit"
    most: int | Adaptive
    queue: int = 0
    wait_s: float = 1.0
    order: Order = "fifo"
    codel: Codel | None = Codel()
    priority: str | Callable[..., Hashable] | None = None

    def bind(self, binding: Binding) -> LimitLayer:
        return LimitLayer(self, binding)

    @property
    def first(self) -> int:
        return self.most.first if isinstance(self.most, Adaptive) else self.most


def limit(
    most: int | Adaptive,
    *,
    queue: int = 0,
    wait: float = 1.0,
    order: Order = "fifo",
    codel: Codel | None = Codel(),  # noqa: B008 - frozen
    priority: str | Callable[..., Hashable] | None = None,
) -> Limit:
    """At most `most` calls at once; up to `queue` others wait, each for `wait` seconds at most.

    `order="adaptive"` serves the newest first while the queue stands: the oldest is the one whose client has given up.
    `codel=None` sheds nobody before its time. `priority`: a key (`"{tier}"`) or function that gives a `Priority` (an
    int, 0 the most important); without it the contextvar `priority` tells. Raises ConfigError.
    """
    if isinstance(most, int) and most < 1:
        raise ConfigError(f"limit({most}) admits nobody", "Give at least 1; to refuse all, force a breaker open.")
    if queue < 0 or not wait > 0:
        raise ConfigError(
            f"limit: queue={queue}, wait={wait} is no queue",
            "queue >= 0 (0: nobody waits), wait > 0 seconds.",
        )
    if order not in get_args(Order):
        raise ConfigError(f"limit: there is no order {order!r}", f"One of {', '.join(get_args(Order))}.")
    return Limit(most=most, queue=queue, wait_s=wait, order=order, codel=codel, priority=priority)

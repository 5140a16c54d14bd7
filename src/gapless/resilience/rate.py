"""rate(…): no more calls than so many in a time, for each key.

rate("100/s")                                              # all calls together, 100 at once after a quiet time
rate("10/min", key="{user}", burst=3, overrides={"importer": "1000/min"})
rate("100/s", key="{user}", hot=top(1000))                 # bounded memory, whatever the number of users
rate("5/s", mode="leaky", queue=20)                        # waits for its turn, evenly spaced
rate("3/d", key="{user}", mode="sliding")                  # exact in every window
rate("500/s", shared=redis)                                # one limit for all processes, one round trip each
rate("500/s", shared=leased(redis))                        # the same from a local share, refilled in the background
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience.rate_hot import Top, top
from gapless.resilience.rate_quota import Quota, quota
from gapless.resilience.rate_shared import Shared, exact, leased

if TYPE_CHECKING:
    from gapless.resilience.policy import Binding, Layer

__all__ = ["Rate", "exact", "leased", "rate", "top"]

MODES = ("token", "leaky", "sliding")

Template = str | Callable[..., Hashable]


class Rate(Value):
    """See `rate`."""

    kind: ClassVar[str] = "rate"
    quota: Quota
    key: Template = ""
    mode: str = "token"
    queue: float = 0.0
    hot: Top | None = None
    overrides: tuple[tuple[Hashable, Quota], ...] = ()
    shared: Shared | None = None

    def quota_of(self, key: Hashable) -> Quota:
        return next((each for value, each in self.overrides if value == key), self.quota)

    def plain(self) -> Rate:
        """The same without hot keys: overrides are few."""
        return self.__replace__(hot=None)

    def bind(self, binding: Binding) -> Layer:
        from gapless.resilience import rate_layers

        return rate_layers.layer_of(self, binding)


def rate(
    limit: str | Quota,
    *,
    key: Template = "",
    burst: float | None = None,
    mode: str = "token",
    queue: float | None = None,
    hot: Top | None = None,
    overrides: Mapping[Any, str | Quota] | None = None,
    shared: Shared | str | Any = None,
) -> Rate:
    """At most `limit` ("100/s", "20/10s", "6000/min") calls for each value of `key`; more raise RateLimited.

    `burst`: calls that may come at once after a quiet time; by default the limit's whole count. Overrides have their
    own count as burst.
    `mode`: "token" (bucket), "leaky" (calls wait for evenly spaced turns, at most `queue` of them and never beyond the
    deadline), "sliding" (never more than the count in any window of the time; 8 bytes per call of the window).
    `hot`: exact buckets only for the busiest keys, memory bounded to 8 MB.
    `overrides`: other limits for single values of the key; "0/s" refuses it.
    `shared`: a client of redis-py or a URL (`exact`), or `leased(…)`.

    Raises ConfigError for what does not fit together.
    """
    wanted = quota(limit, burst)
    own = tuple((value, quota(each)) for value, each in (overrides or {}).items())
    through = shared if shared is None or isinstance(shared, Shared) else exact(shared)
    _check(mode, wanted, [each for _, each in own], burst, queue, hot, through)
    waiting = wanted.count if queue is None else queue
    return Rate(
        quota=wanted,
        key=key,
        mode=mode,
        queue=waiting if mode == "leaky" else 0.0,
        hot=hot,
        overrides=own,
        shared=through,
    )


def _check(
    mode: str,
    wanted: Quota,
    own: list[Quota],
    burst: float | None,
    queue: float | None,
    hot: Top | None,
    shared: Shared | None,
) -> None:
    fractional = any(each.count % 1 for each in [wanted, *own])
    wrong = [
        (mode not in MODES, f"mode={mode!r} is unknown", f"One of: {', '.join(MODES)}."),
        (queue is not None and mode != "leaky", f"queue={queue} has no meaning in mode {mode}", 'Use mode="leaky".'),
        (queue is not None and queue < 0, f"queue={queue} is below 0", "Give the number of calls that may wait."),
        (
            burst is not None and mode != "token",
            f"burst={burst} has no meaning in mode {mode}",
            "Leave it out: leaky spaces calls evenly, sliding allows its count at once.",
        ),
        (hot is not None and mode != "token", f"hot has no meaning in mode {mode}", "Leave out the mode."),
        (
            mode == "sliding" and fractional,
            "a sliding window counts whole calls",
            'Write "1/2s" instead of "0.5/s".',
        ),
        (
            shared is not None and mode != "token",
            f"mode {mode} is not shared between processes",
            "Leave out the mode, or `shared`.",
        ),
    ]
    for is_wrong, what, remedy in wrong:
        if is_wrong:
            raise ConfigError(f"rate: {what}", remedy)

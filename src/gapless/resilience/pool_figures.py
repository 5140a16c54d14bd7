"""A pool's figures: the same for our own pool and for the adapters around vendors' pools."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields
from typing import Protocol, TypeVar

C_co = TypeVar("C_co", covariant=True)

WAIT_BOUNDS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
"""From a hand-over within one pass of the loop to longer than any caller should wait for a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFigures:
    """A snapshot. `size` = idle + in_use + what is being opened, checked or closed."""

    name: str
    max_size: int
    size: int = 0
    idle: int = 0
    in_use: int = 0
    waiting: int = 0
    oldest_checkout_age_s: float = 0.0
    oldest_checkout_place: str = ""
    acquired_total: int = 0
    timeouts_total: int = 0
    created_total: int = 0
    closed_total: int = 0
    discarded_total: int = 0
    """Of the closed ones, those that were broken."""
    failed_total: int = 0
    """Attempts to open a connection that failed."""
    leaked_total: int = 0
    """Checkouts that were out for longer than `leak_after_s`."""
    wait_s_total: float = 0.0
    waits: tuple[int, ...] = ()
    """Checkouts that had to wait, by WAIT_BOUNDS_S; the last counts those above all bounds."""

    def metrics(self) -> Mapping[str, float]:
        """By metric name, without labels; `name` is the label that tells pools apart."""
        return {_METRICS[name]: float(getattr(self, name)) for name in _METRICS}


_TEXTS = ("name", "oldest_checkout_place", "waits")
_METRICS = {
    each.name: "pool_" + (each.name[:-2] + "_seconds" if each.name.endswith("_s") else each.name)
    for each in fields(PoolFigures)
    if each.name not in _TEXTS
}
_METRICS["wait_s_total"] = "pool_wait_seconds_total"


class HasFigures(Protocol):
    """Whatever can be watched as a pool."""

    def statistics(self) -> PoolFigures: ...


class ConnectionPool(HasFigures, Protocol[C_co]):
    """What code that borrows connections needs to know of a pool."""

    def acquire(self) -> AbstractAsyncContextManager[C_co]: ...


@dataclass(slots=True)
class Counts:
    """The counters behind the figures: plain ints, always on."""

    acquired: int = 0
    timeouts: int = 0
    created: int = 0
    closed: int = 0
    discarded: int = 0
    failed: int = 0
    leaked: int = 0
    wait_s: float = 0.0
    waits: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BOUNDS_S) + 1))

    def waited(self, seconds: float) -> None:
        self.wait_s += seconds
        self.waits[bisect_left(WAIT_BOUNDS_S, seconds)] += 1

    def totals(self) -> dict[str, int]:
        names = ("acquired", "timeouts", "created", "closed", "discarded", "failed", "leaked")
        return {f"{name}_total": getattr(self, name) for name in names}

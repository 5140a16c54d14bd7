"""What a pool raises beside `PoolTimeout`. None of it reached the other side: asking again is safe for every call."""

from __future__ import annotations

from gapless.resilience.errors import PoolTimeout, Rejected, Unsent
from gapless.resilience.pool_figures import PoolFigures


class PoolClosed(Rejected):
    """The pool is closed or closing."""

    remedy = "Close the pool after everything that uses it: open it first, close it last."


class ConnectFailed(Unsent):
    """No connection could be opened."""

    def __init__(self, what: str = "", remedy: str = "", *, pool: str = "") -> None:
        super().__init__(what, remedy or "Is the server up, and are address and credentials right?")
        self.pool = pool


def too_late(figures: PoolFigures, limit_s: float) -> PoolTimeout:
    """Nothing came back in time; the figures say who has it all."""
    oldest = ""
    if figures.in_use:
        oldest = f", the oldest for {figures.oldest_checkout_age_s:.1f} s since {figures.oldest_checkout_place}"
    return PoolTimeout(
        f"pool {figures.name!r}: no connection within {limit_s:.3g} s: {figures.in_use} of {figures.max_size} are out"
        f"{oldest}; {figures.waiting} others wait",
        "Hold connections for less time, raise max_size, or admit fewer calls (limit) in front of the pool.",
        policy="pool",
        guard=figures.name,
    )


def not_connected(pool: str, error: BaseException, limit_s: float) -> ConnectFailed:
    """`error` came out of `connect`."""
    if isinstance(error, ConnectFailed):
        return error
    own = type(error) is TimeoutError and not error.args
    text = f"nothing answered within {limit_s:.3g} s" if own else f"{type(error).__name__}: {error}"
    failure = ConnectFailed(f"pool {pool!r}: no connection could be opened: {text}", pool=pool)
    failure.__cause__ = error
    return failure

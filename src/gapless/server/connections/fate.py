"""What becomes of a connection of a leaving worker: pure. Moments are seconds of the loop's clock."""

from __future__ import annotations

from typing import NamedTuple

SPREAD = 1.5
"""Quiet connections are closed over so many times their idle time, not all at once: their clients all come back."""
LAST_CALL_SHARE = 0.8
"""From this part of the limit on, no connection waits any longer to be handed over: each response is the last."""


class Order(NamedTuple):
    """What the worker was told."""

    told_at: float
    idle_s: float
    """Quiet for so long since it was told: the client will hardly ask just when we close."""
    end_at: float = float("inf")

    @property
    def last_call_at(self) -> float:
        return self.told_at + (self.end_at - self.told_at) * LAST_CALL_SHARE


def close_at(order: Order, quiet_at: float, turn: float) -> float:
    """When a connection that stays quiet is closed, if it could not be handed over. `turn`: its place among the others,
    from 0 to 1."""
    first = max(quiet_at, order.told_at) + order.idle_s
    return min(first + turn * SPREAD * order.idle_s, max(first, order.last_call_at))


def turn_of(number: int) -> float:
    """Places for the first, second, third … connection that are spread evenly however many there are (multiples of
    the golden ratio)."""
    return number * 0.6180339887498949 % 1.0

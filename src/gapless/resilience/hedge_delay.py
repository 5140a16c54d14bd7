"""When is a call slow? A streaming estimate of a high quantile, in bounded memory.

Latencies fall into buckets, sixteen to each doubling (HdrHistogram's layout), and age: every so many calls all counts
are halved, so that what was long ago fades. A quantile is worked out once in some calls, from the top.
"""

from __future__ import annotations

import math
from math import frexp

SUB = 16
"""Buckets per doubling: a bucket's upper bound is at most 6.25 % above what fell into it."""
LEAST_EXPONENT, MOST_EXPONENT = -20, 12
"""From a microsecond to an hour."""
AGE = 1_000
"""Calls between halvings: the estimate looks back over about two thousand."""
EVERY = 32
"""Calls between estimates."""
LEARN = 100
"""Calls before the first estimate: of fewer, five in a hundred is not known."""
SLACK = 1.25
DOUBLING = 0.125
"""A share of stragglers that is just the wanted one looks larger in every other sample, and then the quantile would be
the stragglers' own latency, which helps nobody. So up to a quarter more than the share may lie above the estimate (the
cap on hedges keeps to the share), if that makes it smaller: an eighth too many is worth half the time."""


class Fixed:
    """A delay that somebody knows."""

    __slots__ = ("value_s",)

    def __init__(self, value_s: float) -> None:
        self.value_s = value_s

    def record(self, took_s: float) -> None:
        """There is nothing to learn."""


class Quantile:
    """`value_s`: what all but a share of 1 - q of the calls stay below; infinite until enough is known."""

    __slots__ = ("_beyond", "_counts", "_fresh", "_seen", "_share", "_top", "value_s")

    def __init__(self, q: float) -> None:
        self.value_s = math.inf
        self._share = 1.0 - q
        self._counts = [0] * ((MOST_EXPONENT - LEAST_EXPONENT + 1) * SUB)
        self._beyond = 0
        """Calls that were ended before their time: nobody knows how long they would have taken."""
        self._seen = 0
        self._fresh = 0
        self._top = 0
        """No bucket above this one has anything in it."""

    def record(self, took_s: float) -> None:
        """`took_s` is infinite for a call that was too slow to be waited for."""
        if took_s == math.inf:
            self._beyond += 1
        else:
            at = index(took_s)
            self._counts[at] += 1
            if at > self._top:
                self._top = at
        self._seen += 1
        self._fresh += 1
        if self._fresh >= EVERY and self._seen >= LEARN:
            self._estimate()

    def _estimate(self) -> None:
        self._fresh = 0
        self.value_s = self._best()
        if self._seen >= 2 * AGE:
            self._age()

    def _best(self) -> float:
        """The bound with the best balance between the share above it and its length; infinite if all have too many."""
        wanted, counts = self._seen * self._share, self._counts
        above, at, best, found = self._beyond, self._top, math.inf, -1
        while at >= 0 and above <= wanted * SLACK:
            cost = at / SUB + max(above / wanted - 1.0, 0.0) / DOUBLING
            if cost <= best:
                best, found = cost, at
            above += counts[at]
            at -= 1
        return bound(found) if found >= 0 else math.inf

    def _age(self) -> None:
        self._counts = [count >> 1 for count in self._counts]
        self._beyond >>= 1
        self._seen = sum(self._counts) + self._beyond
        self._top = max((at for at, count in enumerate(self._counts) if count), default=0)


def index(took_s: float) -> int:
    """The bucket of a latency."""
    fraction, exponent = frexp(took_s)
    if exponent < LEAST_EXPONENT or took_s <= 0:
        return 0
    if exponent > MOST_EXPONENT:
        return (MOST_EXPONENT - LEAST_EXPONENT + 1) * SUB - 1
    return (exponent - LEAST_EXPONENT) * SUB + int((fraction - 0.5) * 2 * SUB)


def bound(at: int) -> float:
    """A bucket's upper bound in seconds."""
    return math.ldexp(0.5 + (at % SUB + 1) / (2 * SUB), at // SUB + LEAST_EXPONENT)

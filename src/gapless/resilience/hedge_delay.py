"""When is a call slow? A streaming estimate of a high quantile, in bounded memory.

Latencies fall into buckets, sixteen to each doubling (HdrHistogram's layout), and age: every so many calls all counts
are halved, so that what was long ago fades. A quantile is worked out once in some calls, from the top.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from math import frexp
from typing import Any

from gapless.resilience.memory import whole

SUB = 16
"""Buckets per doubling: a bucket's upper bound is at most 6.25 % above what fell into it."""
LEAST_EXPONENT, MOST_EXPONENT = -19, 12
SHORTEST_S, LONGEST_S = 2.0 ** (LEAST_EXPONENT - 1), 2.0**MOST_EXPONENT
"""From a microsecond to an hour."""
AGE = 1_000
"""Calls between halvings: the estimate looks back over about two thousand."""
EVERY = 50
"""Calls between estimates, at least."""
LEARN = 100
"""Calls before the first estimate: of fewer, five in a hundred is not known."""
LEAST_S = 0.001
"""Whoever answers within a millisecond is not hedged: the loop's own timers are not finer than that."""
SLACK, DOUBLINGS = 1.25, 2.0
"""A share of stragglers that is just the wanted one looks larger in every other sample, and then the quantile would be
the stragglers' own latency, which helps nobody. So up to a quarter more than the share (and two standard deviations of
a sample) may lie above the estimate, if that makes it two doublings smaller; the cap on hedges keeps to the share."""


class Fixed:
    """A delay that somebody knows."""

    __slots__ = ("fresh", "value_s")

    def __init__(self, value_s: float) -> None:
        self.value_s = value_s
        self.fresh: deque[float] = deque(maxlen=0)
        """Forgets at once."""

    def learn(self) -> None:
        """There is nothing to learn."""


class Quantile:
    """`value_s`: what all but a share of 1 - q of the calls stay below; infinite until enough is known."""

    __slots__ = ("_beyond", "_counts", "_seen", "_share", "_top", "fresh", "value_s")

    def __init__(self, q: float) -> None:
        self.value_s = math.inf
        self.fresh: list[float] = []
        """Seconds that calls have taken, infinite for one that was too slow to be waited for. Whoever finds
        `EVERY` of them in here calls `learn`: to append is all that a call pays for."""
        self._share = 1.0 - q
        self._counts = [0] * ((MOST_EXPONENT - LEAST_EXPONENT + 1) * SUB)
        self._beyond = 0
        """Calls that were ended before their time: nobody knows how long they would have taken."""
        self._seen = 0
        self._top = 0
        """No bucket above this one has anything in it."""

    def learn(self) -> None:
        """Take in what is fresh, and estimate anew."""
        fresh, counts = self.fresh[:], self._counts
        del self.fresh[: len(fresh)]
        for took_s in fresh:
            if took_s < LONGEST_S:
                counts[index(took_s)] += 1
            else:
                self._beyond += 1
        self._seen += len(fresh)
        self._top = max(self._top, index(max((each for each in fresh if each < LONGEST_S), default=0.0)))
        if self._seen >= LEARN:
            self.value_s = max(self._best(), LEAST_S)
        if self._seen >= 2 * AGE:
            self._age()

    def dump(self) -> dict[str, Any]:
        """For another process."""
        self.learn()
        filled = [(at, count) for at, count in enumerate(self._counts) if count]
        return {"counts": filled, "beyond": self._beyond}

    def load(self, facts: Mapping[str, Any]) -> None:
        """What another process has seen, beside what was seen here. Raises ValueError, TypeError or KeyError."""
        found = [(whole(at, len(self._counts) - 1), whole(count, 2 * AGE)) for at, count in facts["counts"]]
        beyond = whole(facts["beyond"], 2 * AGE)
        for at, count in found:
            self._counts[at] += count
        self._beyond += beyond
        self._seen += sum(count for _, count in found) + beyond
        self._top = max([self._top, *(at for at, _ in found)])
        self.learn()

    def _best(self) -> float:
        """The bound with the best balance between the share above it and its length; infinite if all have too many."""
        wanted, counts = self._seen * self._share, self._counts
        allowed = wanted * SLACK + 2.0 * math.sqrt(wanted)
        above, at, best, found = self._beyond, self._top, math.inf, -1
        while at >= 0 and above <= allowed:
            cost = at / SUB + max((above - wanted) / (allowed - wanted), 0.0) * DOUBLINGS
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
    """The bucket of a latency below LONGEST_S."""
    fraction, exponent = frexp(max(took_s, SHORTEST_S))
    return (exponent - LEAST_EXPONENT) * SUB + int((fraction - 0.5) * 2 * SUB)


def bound(at: int) -> float:
    """A bucket's upper bound in seconds."""
    return math.ldexp(0.5 + (at % SUB + 1) / (2 * SUB), at // SUB + LEAST_EXPONENT)

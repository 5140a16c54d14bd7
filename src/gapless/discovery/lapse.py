"""What follows when an instance is no longer heard of: reverse heartbeat, and the guard against mass expiry.

A lapsed time to live is no proof of death: it is the registry that may have been paused, or the network between. So
a lapse makes the registry ask the instance itself, and only a probe that fails makes it critical. When more than a set
share lapses at once the fault is hardly theirs: then nobody is evicted while no probe at all is answered, and each
needs `MASS_PROBES` failures in a row. After a start of the registry every time to live gets a grace period.

`Lapses` decides and does nothing itself: each event takes the moment and returns what is to be done. It changes in
place, because a heartbeat must cost the same among ten thousand instances as alone.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

MASS_SHARE = 0.2
"""More than this share of those who have a time to live, lapsed within `MASS_WINDOW_S`: machines fail one by one,
networks and registries all at once."""
MASS_LEAST = 3
"""Fewer than this are no mass, whatever their share."""
MASS_WINDOW_S = 5.0
MASS_PROBES = 3
RETRY_S = 1.0
"""Between two probes of the same instance."""
GRACE_S = 15.0


class Standing(StrEnum):
    PASSING = "passing"
    LAPSED = "lapsed"
    """Not heard of in time, and being asked. It is still found."""
    CRITICAL = "critical"


class Probe(NamedTuple):
    instance: str


class Evict(NamedTuple):
    """It is critical from now on."""

    instance: str
    reason: str


class Welcome(NamedTuple):
    """It was lapsed or critical, and is passing again."""

    instance: str


Action = Probe | Evict | Welcome


@dataclass(slots=True)
class Watched:
    ttl_s: float
    next_at: float
    """When its time to live ends, or its next probe is due; infinite while one is under way."""
    planned_at: float = math.inf
    """Its line in the agenda, not later than `next_at`: a heartbeat only moves the latter, and costs no line."""
    standing: Standing = Standing.PASSING
    failures: int = 0
    """Probes in a row that failed."""


class Lapses:
    """Those who have a time to live, and how they stand."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}
        self._agenda: list[tuple[float, str]] = []
        self._lapsed = 0
        self._recent: deque[float] = deque()
        self._answered = 0
        self.mass = False
        """A mass expiry is under way."""

    def standing(self, instance: str) -> Standing | None:
        """None for one without a time to live."""
        one = self._watched.get(instance)
        return one.standing if one else None

    def due(self) -> float:
        """When `tick` is wanted; infinite when nothing is waited for."""
        while self._agenda:
            at, instance = self._agenda[0]
            one = self._watched.get(instance)
            if one is not None and one.next_at == at:
                return at
            heapq.heappop(self._agenda)
            if one is not None and one.planned_at == at:
                one.planned_at = math.inf
                self._plan(instance, one, one.next_at)
        return math.inf

    def restarted(self, ttls: Mapping[str, float], now: float) -> None:
        """The registry begins, with those who were registered and their times to live in seconds."""
        for instance, ttl_s in ttls.items():
            self._watch(instance, ttl_s, now + max(ttl_s, GRACE_S))

    def heard(self, instance: str, ttl_s: float, now: float) -> list[Action]:
        """A heartbeat, be it the first."""
        one = self._watched.get(instance)
        if one is None:
            self._watch(instance, ttl_s, now + ttl_s)
            return []
        before = one.standing
        self._leave(one)
        one.ttl_s, one.standing, one.failures = ttl_s, Standing.PASSING, 0
        self._plan(instance, one, now + ttl_s)
        return [] if before is Standing.PASSING else [Welcome(instance)]

    def gone(self, instance: str) -> None:
        """Deregistered."""
        self._leave(self._watched.pop(instance, None))

    def tick(self, now: float) -> list[Action]:
        """The moment that `due` named has come."""
        actions: list[Action] = []
        while self.due() <= now:
            instance = heapq.heappop(self._agenda)[1]
            one = self._watched[instance]
            one.next_at = one.planned_at = math.inf
            if one.standing is Standing.PASSING:
                one.standing, one.failures = Standing.LAPSED, 0
                self._lapsed += 1
                self._recent.append(now)
            actions.append(Probe(instance))
        self._look_for_mass(now)
        return actions

    def probed(self, instance: str, answered: bool, now: float) -> list[Action]:
        """What the registry's own question came to."""
        one = self._watched.get(instance)
        if one is None or one.standing is Standing.PASSING:
            return []
        if answered:
            self._answered += 1
            # It lives, but does not say so: it is asked again when another time to live has passed.
            return self.heard(instance, one.ttl_s, now)
        one.failures += 1
        self._plan(instance, one, now + RETRY_S)
        if one.standing is Standing.CRITICAL or not self._enough(one):
            return []
        self._leave(one)
        one.standing = Standing.CRITICAL
        probes = "a probe" if one.failures == 1 else f"{one.failures} probes"
        return [Evict(instance, f"not heard of for {one.ttl_s:g} s, and {probes} failed")]

    def _enough(self, one: Watched) -> bool:
        """May it be evicted on what is known?"""
        return not self.mass or (one.failures >= MASS_PROBES and self._answered > 0)

    def _look_for_mass(self, now: float) -> None:
        while self._recent and now - self._recent[0] > MASS_WINDOW_S:
            self._recent.popleft()
        most = max(MASS_LEAST, MASS_SHARE * len(self._watched))
        if not self.mass and self._lapsed and len(self._recent) >= most:
            self.mass, self._answered = True, 0

    def _leave(self, one: Watched | None) -> None:
        """It is no longer lapsed. A mass expiry is over when nobody is."""
        if one is not None and one.standing is Standing.LAPSED:
            self._lapsed -= 1
            if not self._lapsed:
                self.mass = False

    def _watch(self, instance: str, ttl_s: float, until: float) -> None:
        one = self._watched[instance] = Watched(ttl_s, math.inf)
        self._plan(instance, one, until)

    def _plan(self, instance: str, one: Watched, at: float) -> None:
        one.next_at = at
        if at < one.planned_at:
            one.planned_at = at
            heapq.heappush(self._agenda, (at, instance))

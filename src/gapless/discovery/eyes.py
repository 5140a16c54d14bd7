"""What many callers see of an instance, put together: health by witnesses.

Callers tell whether the instances that they ask answered. A complaint is evidence, and evidence expires. An instance
is taken for unhealthy when a quorum of distinct observers complains: a share of those who lately asked it, and never
one alone where there are several. Below the quorum its weight sinks by degrees: a suspect gets less before it gets
nothing.

An observer whose own network is broken complains about everybody. So one that complains about more than `SUSPECT_SHARE`
of those whom it asks is not believed, unless most observers find the same. (Compare the accusations of SWIM with
suspicion, Das, Gupta, Motivala 2002, and of Lifeguard, Dadgar, Phillips, Currey 2018, where a member that fails to hear
others doubts itself.)

Everything takes the moment as an argument; nothing here waits or asks anybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Sight(StrEnum):
    """What a caller saw of an instance."""

    WELL = "well"
    REFUSED = "refused"
    RESET = "reset"
    SLOW = "slow"
    FAILED = "failed"
    """A 5xx answer."""


EVIDENCE_S = 10.0
"""How long a sight counts: callers tell once a second, so this is several of their reports; an instance that has
recovered is trusted again within it."""
SUSPECT_SHARE = 0.3

JUDGE_S = 0.2
"""How long the judgement of an observer is kept: it looks at all that the observer has told."""


SETTLE_S = 2.0
"""Since the first report of all: two reports of everybody. Until then nobody is taken for the only observer, nor are a
few for most of them: after a start of the registry the first to speak may be the one whose network is broken."""


class Witnesses(NamedTuple):
    """How many it takes: a `share` of the `recent` observers who asked the instance last, `least` at the least. Where
    fewer than that exist at all, all of them. Few recent ones find a death sooner; many are harder to mislead."""

    share: float = 0.5
    least: int = 2
    recent: int = 10


QUORUM = Witnesses()


class Opinion(NamedTuple):
    """What the observers together say of an instance. `weight` is 1 for a healthy one, 0 for one that a quorum
    rejects."""

    healthy: bool
    weight: float
    complaining: int
    asking: int


class _Seen(NamedTuple):
    at: float
    well: bool


@dataclass(slots=True)
class _Eye:
    """One observer: what it saw last of each instance, and whether it is to be believed."""

    seen: dict[str, _Seen] = field(default_factory=dict)
    suspect: bool = False
    judged_at: float = -math.inf


class Eyes:
    """The sights of all observers. Memory: two small entries for each pair that met within `EVIDENCE_S`."""

    def __init__(self, quorum: Witnesses = QUORUM) -> None:
        self._quorum = quorum
        self._eyes: dict[str, _Eye] = {}
        self._by_instance: dict[str, dict[str, _Seen]] = {}
        """By instance, then by observer, the latest last."""
        self._began_at = math.inf
        self._looked_at = -math.inf
        self._judged = 0
        self._alike = False

    def saw(self, observer: str, instance: str, sight: Sight, now: float) -> None:
        """A caller tells. Its latest word counts."""
        self._began_at = min(self._began_at, now)
        seen = _Seen(now, sight is Sight.WELL)
        self._eyes.setdefault(observer, _Eye()).seen[instance] = seen
        observers = self._by_instance.setdefault(instance, {})
        observers.pop(observer, None)
        observers[observer] = seen

    def opinion(self, instance: str, now: float) -> Opinion:
        """What is to be thought of an instance now."""
        asking = complaining = 0
        for observer, seen in reversed(self._by_instance.get(instance, {}).items()):
            if asking == self._quorum.recent or now - seen.at > EVIDENCE_S:
                break
            if self._all_alike(now) or not self._suspect(observer, now):
                asking += 1
                complaining += not seen.well
        needed = self._needed(asking, now)
        return Opinion(complaining < needed, max(0.0, 1.0 - complaining / needed), complaining, asking)

    def _needed(self, asking: int, now: float) -> int:
        there = len(self._eyes) if self._settled(now) else self._quorum.least
        least = min(self._quorum.least, max(there, 1))
        return max(least, math.ceil(self._quorum.share * asking))

    def forget(self, now: float) -> None:
        """Drop what has expired; to be called now and then."""
        for sights in (
            *(eye.seen for eye in self._eyes.values()),
            *self._by_instance.values(),
        ):
            for name in [name for name, seen in sights.items() if now - seen.at > EVIDENCE_S]:
                del sights[name]
        self._eyes = {name: eye for name, eye in self._eyes.items() if eye.seen}
        self._by_instance = {name: seen for name, seen in self._by_instance.items() if seen}

    def _all_alike(self, now: float) -> bool:
        """Do most observers complain about many? Then there is much to complain about."""
        if not self._settled(now):
            return False
        if now - self._looked_at > JUDGE_S or self._judged != len(self._eyes):
            self._looked_at, self._judged = now, len(self._eyes)
            self._alike = sum(self._suspect(name, now) for name in self._eyes) * 2 > len(self._eyes)
        return self._alike

    def _settled(self, now: float) -> bool:
        return now - self._began_at >= SETTLE_S

    def _suspect(self, observer: str, now: float) -> bool:
        """Does it complain about so many that the fault is rather its own?"""
        eye = self._eyes[observer]
        if now - eye.judged_at > JUDGE_S:
            fresh = [seen.well for seen in eye.seen.values() if now - seen.at <= EVIDENCE_S]
            complained = fresh.count(False)
            eye.suspect = complained > SUSPECT_SHARE * len(fresh)
            eye.judged_at = now
        return eye.suspect

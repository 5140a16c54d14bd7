"""What services answered in the last quarter of an hour, in slots, as the gateway saw it.

A slot that is over never changes: it is asked for once and kept. So a page that is looked at costs one question per
release and second, and one that nobody looks at none.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gapless.control.figures import plus
from gapless.core.model import Window
from gapless.core.ports import Metrics
from gapless.observe import judge

KEPT_S = 900
"""How far back the gateway remembers."""
LATE_S = 1.0
"""A second is complete once the gateway's log of it has arrived."""
FEW = 20
"""Below so many answers a p99 is an accident."""
BREATH = 8
"""Questions after which others get a turn: the first look asks for all slots at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What was answered in `length_s` seconds from `at`."""

    at: float
    length_s: float
    window: Window
    told_p99_s: float | None = None
    """By the record of metrics, which keeps no histograms for us."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.window.requests / self.length_s

    @property
    def error_rate(self) -> float | None:
        return self.window.errors / self.window.requests if self.window.requests else None

    @property
    def p99_s(self) -> float | None:
        """None while there are too few answers to name one."""
        if not any(self.window.latency):
            return self.told_p99_s
        return judge.quantile(self.window.latency, 0.99) if self.window.requests >= FEW else None


def together(slots: Sequence[Slot], at: float, seconds: float) -> Slot:
    """The slots of the last seconds before `at` as one."""
    total = Window()
    chosen = [slot for slot in slots if slot.at >= at - seconds - slot.length_s / 2]
    for slot in chosen:
        total = plus(total, slot.window)
    told = next((slot.told_p99_s for slot in reversed(chosen) if slot.told_p99_s is not None), None)
    length_s = max(sum(slot.length_s for slot in chosen), 1.0)
    return Slot(at=at - seconds, length_s=length_s, window=total, told_p99_s=told)


class Lately:
    """Slots of any release, kept while they are asked for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._over: dict[tuple[str, str, float], dict[float, Slot]] = {}

    async def slots(
        self, service: str, release: str, now_at: float, *, since_s: float = KEPT_S, slot_s: float = 10.0
    ) -> list[Slot]:
        """Oldest first; the last one may be shorter, and is left out when nothing of it is complete."""
        key = (service, release, slot_s)
        kept = self._over.setdefault(key, {})
        until = math.floor(now_at - LATE_S)
        first = math.floor((until - min(since_s, KEPT_S)) / slot_s) * slot_s
        wanted = [first + place * slot_s for place in range(math.ceil((until - first) / slot_s))]
        self._over[key] = kept = {at: slot for at, slot in kept.items() if at >= until - KEPT_S - slot_s}
        found = []
        for number, at in enumerate(at for at in wanted if at < until):
            if at not in kept and number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            found.append(kept.get(at) or await self._ask(kept, service, release, at, min(at + slot_s, until), slot_s))
        return found

    async def _ask(
        self, kept: dict[float, Slot], service: str, release: str, at: float, end: float, slot_s: float
    ) -> Slot:
        window = await self._metrics.window(service, release, at, end)
        slim = Window(requests=window.requests, errors=window.errors, latency=window.latency)
        slot = Slot(at=at, length_s=end - at, window=slim)
        if end >= at + slot_s:
            kept[at] = slot
        return slot


def begun(slots: Sequence[Slot]) -> list[Slot]:
    """From the first answer on: before it nothing was measured, which is not zero."""
    first = next((place for place, slot in enumerate(slots) if slot.window.requests), len(slots))
    return list(slots[first:])


def added(parts: Sequence[Sequence[Slot]]) -> list[Slot]:
    """The slots of several releases as those of one."""
    sums: dict[float, Slot] = {}
    for slot in (slot for part in parts for slot in part):
        known = sums.get(slot.at)
        total = plus(known.window, slot.window) if known else slot.window
        sums[slot.at] = Slot(at=slot.at, length_s=slot.length_s, window=total)
    return [sums[at] for at in sorted(sums)]

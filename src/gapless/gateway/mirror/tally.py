"""What the answers came to, added up in bounded space."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from gapless.core.model import HISTOGRAM_BOUNDS_S
from gapless.core.model.mirror import MirrorTally
from gapless.gateway.mirror.answers import Answer, Difference

EXAMPLES = 10
PLACES = 100
"""Places that are counted by name; more of them are counted together."""
LONGEST = 300
OTHERS = "other places"


def shown(method: str, target: str) -> str:
    """A request for people: of its query only the names, because values may be secrets."""
    path, _, query = target.partition("?")
    names = "&".join(f"{name}=…" for name, _ in parse_qsl(query, keep_blank_values=True))
    return f"{method} {path}?{names}" if names else f"{method} {path}"


def general(place: str) -> str:
    """A place with its positions in lists left open, so that they are counted together."""
    return re.sub(r"\[\d+\]", "[*]", place)


@dataclass(slots=True)
class Tally:
    asked: int = 0
    dropped: int = 0
    skipped: int = 0
    unsafe: int = 0
    unsafe_errors: int = 0
    compared: int = 0
    different: int = 0
    noisy: int = 0
    places: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    new_latency: list[int] = field(default_factory=lambda: [0] * (len(HISTOGRAM_BOUNDS_S) + 1))
    stable_latency: list[int] = field(default_factory=lambda: [0] * (len(HISTOGRAM_BOUNDS_S) + 1))

    def add(
        self, request: str, stable: Answer | None, new: Answer, found: tuple[Difference, ...], *, noisy: bool = False
    ) -> None:
        """A request that was compared, or (`stable` is None) only asked of the new release."""
        self.compared += 1
        self.noisy += noisy
        if new.status:  # an answer that never came has no latency; it is a difference already
            self.new_latency[bisect_left(HISTOGRAM_BOUNDS_S, new.took_s)] += 1
        if stable is not None:
            self.stable_latency[bisect_left(HISTOGRAM_BOUNDS_S, stable.took_s)] += 1
        if found:
            self.different += 1
            self._note(request, found)

    def _note(self, request: str, found: tuple[Difference, ...]) -> None:
        for place in {general(one.place) for one in found}:
            self.places[place if place in self.places or len(self.places) < PLACES else OTHERS] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{request}: {'; '.join(map(str, found))}"[:LONGEST])

    def value(self) -> MirrorTally:
        return MirrorTally(
            asked=self.asked,
            dropped=self.dropped,
            skipped=self.skipped,
            unsafe=self.unsafe,
            unsafe_errors=self.unsafe_errors,
            compared=self.compared,
            different=self.different,
            noisy=self.noisy,
            places=dict(self.places.most_common(PLACES)),
            examples=tuple(self.examples),
            new_latency=tuple(self.new_latency),
            stable_latency=tuple(self.stable_latency),
        )

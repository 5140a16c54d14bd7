"""What was scraped lately, in memory: the open block of every metric. Pure but for its own state.

A counter that appears in the text of somebody who was asked before has begun at zero since then: that point is added,
or the first events of every new label would be in no rate.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gapless.observe.evaluate import Track
from gapless.observe.exposition import lines, parted
from gapless.observe.recorder.blocks import labelled

MOST_TRACKS = 20_000
"""In the open block: with ten minutes of five seconds, some 40 MB. A histogram is a track for each of its buckets."""
MOST_OF_TARGET = 5_000
"""So that one service with too many labels does not take the place of all others."""
RISING = ("_total", "_bucket", "_count", "_sum")


@dataclass(frozen=True, slots=True)
class Scraped:
    """What one target answered, and its labels: `service`, `release` and `instance` of an instance."""

    labels: Mapping[str, str]
    text: str


@dataclass(slots=True)
class _Target:
    labels: Mapping[str, str]
    asked_at: float = 0.0
    tracks: dict[str, Track | None] = field(default_factory=dict)
    """By name and labels as they were scraped. None: one too many."""


class Head:
    """`metrics[name]`: the tracks of the open block. `refused`: how many had no room, by service."""

    def __init__(self, most: int = MOST_TRACKS, most_of_target: int = MOST_OF_TARGET) -> None:
        self._most = most
        self._most_of_target = most_of_target
        self._targets: dict[tuple[tuple[str, str], ...], _Target] = {}
        self.metrics: dict[str, list[Track]] = {}
        self.refused: Counter[str] = Counter()
        self.count = 0

    def add(self, scraped: Scraped, at: float, fresh_s: float) -> None:
        """Take what a target answered at a moment, which is later than the one before. `fresh_s`: asked so shortly
        before, a target is known to have had none of the counters that it has now for the first time."""
        key = tuple(sorted(scraped.labels.items()))
        target = self._targets.setdefault(key, _Target(scraped.labels))
        began_at = target.asked_at if 0 < at - target.asked_at <= fresh_s else 0.0
        for series, value in lines(scraped.text):
            try:
                number = float(value)
            except ValueError:
                continue
            track = target.tracks[series] if series in target.tracks else self._begin(target, series, began_at)
            if track is not None:
                track.at.append(at)  # type: ignore[attr-defined]
                track.values.append(number)  # type: ignore[attr-defined]
        target.asked_at = at

    def _begin(self, target: _Target, series: str, began_at: float) -> Track | None:
        if self.count >= self._most or len(target.tracks) >= self._most_of_target:
            self.refused[target.labels.get("service", "")] += 1
            target.tracks[series] = None
            return None
        name, own = parted(series)
        zero = bool(began_at) and name.endswith(RISING)
        at, values = array("d", [began_at] * zero), array("d", [0.0] * zero)
        track = Track(labelled(own, target.labels), at, values)
        target.tracks[series] = track
        self.metrics.setdefault(name, []).append(track)
        self.count += 1
        return track

    def tracks(self, metric: str) -> list[Track]:
        return [track for track in self.metrics.get(metric, ()) if track.at]

    def roll(self) -> None:
        """Begin the next block. Who was asked in this one is remembered, also what it had: it has not begun since."""
        known = {key: target for key, target in self._targets.items() if any(_points(target))}
        self.metrics, self.refused, self.count = {}, Counter(), 0
        self._targets = {}
        for key, target in known.items():
            fresh = self._targets[key] = _Target(target.labels)
            for series, track in target.tracks.items():
                if track is not None and track.at and track.at[-1] == target.asked_at:
                    self._begin(fresh, series, 0.0)
            fresh.asked_at = target.asked_at

    def cut(self, at: float) -> None:
        """Forget everything after a moment: the clock was set back."""
        for target in self._targets.values():
            target.asked_at = min(target.asked_at, at)
        for tracks in self.metrics.values():
            for track in tracks:
                while track.at and track.at[-1] >= at:
                    track.at.pop()  # type: ignore[attr-defined]
                    track.values.pop()  # type: ignore[attr-defined]


def _points(target: _Target) -> Iterable[bool]:
    return (track is not None and bool(track.at) for track in target.tracks.values())

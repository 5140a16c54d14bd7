"""Counters, gauges and histograms of one worker, cheap enough for every request.

A child (one combination of label values) is looked up once and then incremented as a plain attribute. `Meter.samples()`
is a JSON-able snapshot that the master merges over its workers (`gapless.service.admin`): several processes need no
shared files (operations.md: prometheus_client's multiprocess files leak with every restart).

A sample: `{"name", "kind": "counter"|"gauge"|"histogram", "help", "labels": [names], "bounds": [upper bounds, seconds],
"values": [[[label values], number | [sum, count of each bucket …]]]}`; the last bucket counts what is above all bounds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Sample = dict[str, Any]

DURATION_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a cache hit to the longest request that a gateway waits for."""


class Counter:
    """A number that only rises (or, as a gauge, goes up and down)."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value

    def state(self) -> Any:
        return self.value


class Histogram:
    """Counts of observations by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def state(self) -> Any:
        return [self.sum, *self.counts]


C = TypeVar("C", Counter, Histogram)


class Family(Generic[C]):
    """A metric's name and its children by label values."""

    def __init__(
        self,
        name: str,
        kind: str,
        text: str,
        labels: tuple[str, ...],
        make: Callable[[], C],
        bounds: Sequence[float] = (),
    ) -> None:
        self.name, self.kind, self.text, self.label_names = name, kind, text, labels
        self.bounds = bounds
        self.children: dict[tuple[str, ...], C] = {}
        self._make: Callable[[], C] = make

    def labels(self, *values: str) -> C:
        """The child of these label values; keep it where it is used often."""
        child = self.children.get(values)
        if child is None:
            child = self.children[values] = self._make()
        return child

    def sample(self) -> Sample:
        values = [[list(labels), child.state()] for labels, child in self.children.items()]
        sample: Sample = {"name": self.name, "kind": self.kind, "help": self.text}
        sample |= {"labels": list(self.label_names), "values": values}
        if self.kind == "histogram":
            sample["bounds"] = list(self.bounds)
        return sample


class Meter:
    """The families of one worker. Asking again for a name returns the same family."""

    def __init__(self) -> None:
        self._families: dict[str, Family[Any]] = {}
        self._read: list[Callable[[], None]] = []

    def counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Family[Counter]:
        """By convention the name does not end in `_total`: the text format adds it."""
        return self._family(Family(name, "counter", text, labels, Counter))

    def gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Family[Counter]:
        return self._family(Family(name, "gauge", text, labels, Counter))

    def histogram(
        self, name: str, text: str, labels: tuple[str, ...] = (), bounds: Sequence[float] = DURATION_BOUNDS_S
    ) -> Family[Histogram]:
        return self._family(Family(name, "histogram", text, labels, lambda: Histogram(bounds), bounds))

    def before_samples(self, read: Callable[[], None]) -> None:
        """Call `read` before each snapshot: for gauges that are cheaper to read than to keep."""
        self._read.append(read)

    def samples(self) -> list[Sample]:
        for read in self._read:
            read()
        return [family.sample() for family in self._families.values()]

    def _family(self, family: Family[C]) -> Family[C]:
        known = self._families.setdefault(family.name, family)
        if (known.kind, known.label_names) != (family.kind, family.label_names):
            raise ValueError(f"metric {family.name!r} exists already as a {known.kind} with labels {known.label_names}")
        return known

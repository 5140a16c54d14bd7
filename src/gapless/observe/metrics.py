"""Counters, gauges and histograms of one worker, cheap enough for every request.

A child (one combination of label values) is looked up once and then incremented as a plain attribute. `Meter.samples()`
is a JSON-able snapshot that the master merges over its workers (`gapless.service.admin`): several processes need no
shared files (operations.md: prometheus_client's multiprocess files leak with every restart).

A sample: `{"name", "kind": "counter"|"gauge"|"histogram", "help", "labels": [names], "bounds": [upper bounds, seconds],
"values": [[[label values], number | [sum, count of each bucket …]]]}`; the last bucket counts what is above all bounds.
A histogram also has `"exemplars": [[[label values], [[bucket, trace id, value, seconds since the epoch] …]]]`.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Sample = dict[str, Any]

DURATION_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a cache hit to the longest request that a gateway waits for."""


MOST_CHILDREN = 2_000
"""Combinations of label values of one metric in one worker. A histogram of so many is 300 kB in every answer."""
OTHER = "other"
"""The value of all labels of what was one too many."""
Exemplar = tuple[str, float, float]
"""A trace's id, what was observed in it, and when (seconds since the epoch)."""

_log = logging.getLogger("gapless.metrics")


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

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """By bucket: the latest that was traced."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def exemplify(self, value: float, trace_id: str, at: float) -> None:
        """What was just observed belongs to a trace that can be looked at."""
        self.exemplars[bisect_left(self.bounds, value)] = (trace_id, value, at)

    def traced(self) -> list[Any]:
        """[bucket, trace, value, when] of each exemplar."""
        return [[place, *one] for place, one in self.exemplars.items()]

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
        self._full = False

    def labels(self, *values: str) -> C:
        """The child of these label values; keep it where it is used often."""
        child = self.children.get(values)
        return self._begin(values) if child is None else child

    def _begin(self, values: tuple[str, ...]) -> C:
        """What is one too many is counted as `other`. Said once: somebody has put what has no end into labels."""
        if len(self.children) >= MOST_CHILDREN and self.label_names:
            if not self._full:
                self._full = True
                text = "metric %r has more than %d combinations of labels: %s and later ones are counted as %r"
                shown = dict(zip(self.label_names, values, strict=False))
                _log.warning(text, self.name, MOST_CHILDREN, shown, OTHER)
            values = (OTHER,) * len(self.label_names)
        return self.children.setdefault(values, self._make())

    def clear(self) -> None:
        """Forget all children: for gauges that are set anew each time."""
        self.children.clear()

    def sample(self) -> Sample:
        values = [[list(labels), child.state()] for labels, child in self.children.items()]
        sample: Sample = {"name": self.name, "kind": self.kind, "help": self.text}
        sample |= {"labels": list(self.label_names), "values": values}
        if self.kind == "histogram":
            sample["bounds"] = list(self.bounds)
            sample["exemplars"] = self._traced()
        return sample

    def _traced(self) -> list[Any]:
        histograms: dict[tuple[str, ...], Any] = dict(self.children)
        return [[list(key), child.traced()] for key, child in histograms.items() if child.exemplars]


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

    def family(self, name: str) -> Family[Any] | None:
        """The one of that name, if there is one."""
        return self._families.get(name)

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

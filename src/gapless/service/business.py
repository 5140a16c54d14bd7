"""What an author counts: `service.metric.count("orders_paid", way="card")`.

A metric is declared by its first use, with the labels that it has there. Nothing here raises in the middle of a request
for a label that came later: it is told once, and left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gapless.observe.metrics import DURATION_BOUNDS_S, Counter, Family, Histogram, Meter

RESERVED = ("gapless_", "process_", "python_")
TEXT = "Counted by the service's own code"
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_log = logging.getLogger("gapless.metrics")


class Business:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._children: dict[tuple[Any, ...], Any] = {}
        self._told: set[str] = set()

    def count(self, name: str, amount: float = 1.0, **labels: object) -> None:
        """So many more events. Recorded as `NAME_total`. Raises ValueError for a name that is none, or is used for
        something else."""
        child: Counter | None = self._children.get(("count", name, *labels.items()))
        if child is None:
            plain = checked(name).removesuffix("_total")
            child = self._child("count", name, labels, self._meter.counter(plain, TEXT, self._labels(plain, labels)))
        child.value += amount

    def gauge(self, name: str, value: float, **labels: object) -> None:
        """What something is at now. Workers and instances add up. Raises ValueError as `count`."""
        child: Counter | None = self._children.get(("gauge", name, *labels.items()))
        if child is None:
            family = self._meter.gauge(checked(name), TEXT, self._labels(name, labels))
            child = self._child("gauge", name, labels, family)
        child.value = value

    def observe(self, name: str, value: float, bounds: Sequence[float] = DURATION_BOUNDS_S, **labels: object) -> None:
        """One of many values whose spread is of interest: a duration in seconds, an amount. `bounds` are the upper
        bounds of its buckets, taken from the first use. Raises ValueError as `count`."""
        child: Histogram | None = self._children.get(("observe", name, *labels.items()))
        if child is None:
            family = self._meter.histogram(checked(name), TEXT, self._labels(name, labels), bounds)
            child = self._child("observe", name, labels, family)
        child.observe(value)

    def _labels(self, name: str, labels: Mapping[str, object]) -> tuple[str, ...]:
        """Those that the metric has, if it is there already."""
        known = self._meter.family(name)
        return known.label_names if known else tuple(labels)

    def _child(self, kind: str, name: str, labels: Mapping[str, object], family: Family[Any]) -> Any:
        if set(family.label_names) != set(labels) and name not in self._told:
            self._told.add(name)
            what = "metric %r has the labels %s; others, as in %s, are left out, and missing ones empty"
            _log.warning(what, name, list(family.label_names), labels)
        values = tuple(str(labels.get(label, "")) for label in family.label_names)
        child = family.labels(*values)
        if child is family.children.get(values):  # not one of those that are too many: there is no end of them
            self._children[(kind, name, *labels.items())] = child
        return child


def checked(name: str) -> str:
    """Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a metric: letters, digits and underscores")
    if name.startswith(RESERVED):
        raise ValueError(f"{name!r}: names that begin with {', '.join(RESERVED)} are taken")
    return name

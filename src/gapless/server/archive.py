"""What the counters of workers that have ended had come to, so that an instance's counters never go backwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Sample = dict[str, Any]
KEPT = frozenset({"counter", "histogram"})
"""A gauge tells of now, and an ended worker has none."""


class Archive:
    """Also holds the master's own counts."""

    def __init__(self) -> None:
        self.reloads = {"done": 0, "refused": 0}
        self.restarts = 0
        self._samples: list[Sample] = []

    def add(self, samples: Iterable[Sample]) -> None:
        """Keep an ended worker's counters."""
        kept = [sample for sample in samples if sample["kind"] in KEPT]
        if kept:
            from gapless.service.admin import merge

            self._samples = merge([self._samples, kept])

    def total(self, live: Iterable[Iterable[Sample]]) -> list[Sample]:
        """Ended workers, live ones and the master as one."""
        from gapless.service.admin import merge

        return merge([self._samples, self._own(), *map(list, live)])

    def _own(self) -> list[Sample]:
        reloads = [[[result], float(n)] for result, n in self.reloads.items()]
        return [
            _counter("gapless_server_reloads", "Reloads by how they ended", ["result"], reloads),
            _counter(
                "gapless_server_restarts", "Workers that were lost and replaced", [], [[[], float(self.restarts)]]
            ),
        ]


def _counter(name: str, text: str, labels: list[str], values: list[Any]) -> Sample:
    return {"name": name, "kind": "counter", "help": text, "labels": labels, "values": values}

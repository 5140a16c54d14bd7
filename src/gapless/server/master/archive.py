"""What the counters of workers that have ended had come to, so that an instance's counters never go backwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Sample = dict[str, Any]
KEPT = frozenset({"counter", "histogram"})
"""A gauge tells of now, and an ended worker has none."""


class Archive:
    """Also holds the master's own counts. `as_plain` is what the next master goes on from."""

    def __init__(self) -> None:
        self.reloads = {"done": 0, "refused": 0}
        self.restarts = 0
        self.recycled = 0
        self.state = {"carried": 0, "left behind": 0, "lost": 0}
        self.masters = 1
        """How many there have been."""
        self.shown: dict[int, list[Sample]] = {}
        """What was last shown of living workers: it is never taken back."""
        self._samples: list[Sample] = []
        self._closed: set[int] = set()

    def add(self, key: int, samples: Iterable[Sample]) -> None:
        """Keep the counters of a worker that ends, once."""
        if key in self._closed:
            return
        self._closed.add(key)
        from gapless.service.admin import merge

        known = {_shape(sample): sample for sample in self._samples}
        for sample in samples:
            if sample["kind"] in KEPT:
                shape = _shape(sample)
                known[shape] = merge([[known[shape]] if shape in known else [], [sample]])[0]
        self._samples = list(known.values())

    def forget(self, key: int) -> None:
        """That worker has ended, and can no longer say its last words twice."""
        self._closed.discard(key)
        self.shown.pop(key, None)

    def total(self, live: Mapping[int, Iterable[Sample]]) -> list[Sample]:
        """Ended workers, live ones and the master as one. Where releases differ in a metric's labels the newest one's
        are shown; of the others nothing is lost, should they come back."""
        from gapless.service.admin import merge

        self.shown = {key: list(samples) for key, samples in live.items() if key not in self._closed}
        newest_first = reversed(list(self.shown.values()))
        return merge([self._own(), *newest_first, self._samples])

    def as_plain(self) -> dict[str, Any]:
        shown = [[key, samples] for key, samples in self.shown.items()]
        counts = {
            "reloads": self.reloads,
            "state": self.state,
            "restarts": self.restarts,
            "recycled": self.recycled,
            "masters": self.masters,
        }
        return {**counts, "samples": self._samples, "closed": list(self._closed), "shown": shown}

    def resume(self, plain: Mapping[str, Any]) -> None:
        """Go on from what an earlier master saved."""
        self.reloads.update(plain.get("reloads", {}))
        self.restarts = plain.get("restarts", 0)
        self.state.update(plain.get("state", {}))
        self.recycled = plain.get("recycled", 0)
        self.masters = plain.get("masters", 1) + 1
        self.shown = dict(plain.get("shown", []))
        self._samples = plain.get("samples", [])
        self._closed = set(plain.get("closed", []))

    def _own(self) -> list[Sample]:
        reloads = [[[result], float(n)] for result, n in self.reloads.items()]
        state = [[[result], float(n)] for result, n in self.state.items()]
        return [
            _counter("gapless_server_reloads", "Reloads by how they ended", ["result"], reloads),
            _counter(
                "gapless_server_state", "Parts of state that were to travel, by what came of it", ["result"], state
            ),
            _count("gapless_server_restarts", "Workers that were lost and replaced", self.restarts),
            _count("gapless_server_recycled", "Worn workers that were replaced", self.recycled),
            _count("gapless_server_successions", "Masters that followed another one", self.masters - 1),
        ]


def _shape(sample: Sample) -> tuple[Any, ...]:
    """What can be summed up: another release may give a metric other labels."""
    return sample["name"], sample["kind"], *sample["labels"]


def _counter(name: str, text: str, labels: list[str], values: list[Any]) -> Sample:
    return {"name": name, "kind": "counter", "help": text, "labels": labels, "values": values}


def _count(name: str, text: str, value: int) -> Sample:
    return _counter(name, text, [], [[[], float(value)]])

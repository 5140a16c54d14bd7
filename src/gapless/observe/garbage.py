"""What the garbage collector does: how often, and for how long everything stood still."""

from __future__ import annotations

import gc
from collections.abc import Callable

from gapless.observe.metrics import Meter

BOUNDS_S = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)


class GarbageMetrics:
    """Counts from the beginning; pauses between `start` and `stop`."""

    def __init__(self, meter: Meter, now: Callable[[], float]) -> None:
        self._now = now
        self._began = 0.0
        self._pauses = meter.histogram("gapless_gc_pause_seconds", "Collections of garbage", bounds=BOUNDS_S).labels()
        collections = meter.counter("python_gc_collections", "Collections of garbage", ("generation",))
        self._counts = [collections.labels(str(generation)) for generation in range(len(gc.get_stats()))]
        meter.before_samples(self._read)

    def start(self) -> None:
        gc.callbacks.append(self._heard)

    def stop(self) -> None:
        if self._heard in gc.callbacks:
            gc.callbacks.remove(self._heard)

    def _heard(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = self._now()
        else:
            self._pauses.observe(self._now() - self._began)

    def _read(self) -> None:
        for count, stats in zip(self._counts, gc.get_stats(), strict=True):
            count.set(stats["collections"])

"""What a worker tells of itself beside its requests: what it takes of the machine, its loop, its garbage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapless.observe.garbage import GarbageMetrics
from gapless.observe.lag import lag_of, watch_lag
from gapless.observe.metrics import Meter
from gapless.observe.process import ProcessMetrics

if TYPE_CHECKING:
    from gapless.core.ports import World


class Vitals:
    def __init__(self, meter: Meter, world: World) -> None:
        self._world = world
        self._lag = lag_of(meter)
        self.garbage = GarbageMetrics(meter, world.now)
        process = ProcessMetrics(meter)
        meter.before_samples(process.read)

    async def watch(self) -> None:
        """For ever: how late the loop is."""
        await watch_lag(self._world, self._lag)

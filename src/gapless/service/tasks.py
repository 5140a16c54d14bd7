"""Work beside the requests, isolated from them and counted: `gapless.resilience.isolation` with the service's meter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapless.observe.metrics import Meter
from gapless.resilience.isolation import Isolation

if TYPE_CHECKING:
    from gapless.core.ports import World


class Tasks(Isolation):
    """The running work of one service: supervised loops, restarted when they crash, and spawned work that a drain
    waits for."""

    def __init__(self, world: World, meter: Meter) -> None:
        restarts = meter.counter("gapless_task_restarts", "Restarts of crashed background tasks", ("task",))
        super().__init__(world, counted=lambda name: restarts.labels(name).inc())

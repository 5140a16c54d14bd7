"""How late the event loop runs what is due: the one figure that shows a blocked loop from inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapless.observe.metrics import Histogram, Meter

if TYPE_CHECKING:
    from gapless.core.ports import World

EVERY_S = 0.5
BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


def lag_of(meter: Meter) -> Histogram:
    return meter.histogram("gapless_loop_lag_seconds", "How late the event loop ran", bounds=BOUNDS_S).labels()


async def watch_lag(world: World, histogram: Histogram) -> None:
    """For ever, until cancelled."""
    while True:
        due = world.now() + EVERY_S
        await world.sleep(EVERY_S)
        histogram.observe(max(world.now() - due, 0.0))

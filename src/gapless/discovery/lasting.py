"""A stream that outlives who sends it: opened again whenever it ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from gapless.core.errors import GaplessError
from gapless.core.ports import World

T = TypeVar("T")

Stream = Callable[[], AsyncGenerator[bytes]]
"""Opens a stream of JSON documents; raises OSError or EOFError when it ends."""

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
"""A restarted control plane is found again within five seconds; until then everybody goes on with what is known."""

_log = logging.getLogger("gapless.discovery")


def _heard(error: Exception) -> None: ...


async def lasting(
    opened: Callable[[], AsyncGenerator[T]], world: World, what: str, lost: Callable[[Exception], None] = _heard
) -> AsyncGenerator[T]:
    """All that comes, for ever; whenever it ends, it is opened anew after a while. `what` is said to be lost then, and
    `lost` is told why."""
    failures = 0
    while True:
        try:
            async with contextlib.aclosing(opened()) as told:
                async for each in told:
                    yield each
                    failures = 0
        except (OSError, EOFError, GaplessError) as error:
            failures += 1
            lost(error)
            level = logging.WARNING if failures == 1 else logging.DEBUG
            _log.log(level, "%s lost (%s); going on with what is known", what, error or "it ended")
        await world.sleep(backoff(max(failures, 1), world.random()))


def backoff(failures: int, dice: float) -> float:
    """Seconds before the next attempt: doubling, half of it jitter, so that all services do not come back at once."""
    longest = min(FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10), LONGEST_BACKOFF_S)
    return longest * (0.5 + dice / 2)

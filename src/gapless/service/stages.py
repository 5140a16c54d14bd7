"""The stages of a start and of a drain: each with a limit, timed, logged and counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gapless.core.errors import AppError, GaplessError, NotReady
from gapless.core.events import Events, StageEnded
from gapless.observe.log import log_stage
from gapless.observe.metrics import Meter
from gapless.resilience.deadline import within
from gapless.service import loader

if TYPE_CHECKING:
    from gapless.core.ports import World

BOUNDS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """Seconds that each stage may take; none may take more than what is left of the whole start-up's limit."""

    settings_s: float = 10.0
    resources_s: float = math.inf
    warm_up_s: float = math.inf
    checks_s: float = math.inf


class Stages:
    def __init__(self, world: World, meter: Meter, events: Events) -> None:
        self._world = world
        self._events = events
        self._durations = meter.histogram(
            "gapless_stage_duration_seconds", "Stages of start and drain", ("stage", "ok"), BOUNDS_S
        )

    async def run(
        self, name: str, limit_s: float, work: Callable[[], Coroutine[Any, Any, None]], late: Callable[[], str]
    ) -> None:
        """One stage of the start. Raises NotReady with what `late` says when the limit passed (empty: only that it
        did), AppError for what the work raised."""
        began = self._world.now()
        try:
            async with within(self._world, limit_s):
                await work()
        except TimeoutError as error:
            what = late() or _late(limit_s)
            self.ended(name, began, ok=False, detail=what)
            raise NotReady(f"start-up stage {name!r} did not end: {what}") from error
        except Exception as error:
            self.ended(name, began, ok=False, detail=f"{type(error).__name__}: {error}")
            raise error if isinstance(error, GaplessError) else AppError(_failure(name, error)) from error
        self.ended(name, began)

    def ended(self, name: str, began: float, ok: bool = True, detail: str = "") -> None:
        """A stage that somebody else timed has ended."""
        event = StageEnded(name=name, took_s=self._world.now() - began, ok=ok, detail=detail)
        self._durations.labels(name, "true" if ok else "false").observe(event.took_s)
        log_stage(event)
        self._events(event)


def _late(limit_s: float) -> str:
    return f"it took more than {limit_s:.1f} s" if limit_s > 0 else "what came before it took the whole start limit"


def _failure(stage: str, error: Exception) -> str:
    return f"start-up stage {stage!r} failed:\n{loader.tail(error)}"

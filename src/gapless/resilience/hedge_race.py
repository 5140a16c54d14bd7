"""One call and its hedges: who answers first, and that nobody is left running."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from gapless.resilience import deadline
from gapless.resilience.cuts import BEATEN
from gapless.resilience.events import CallHedged, HedgeEnded
from gapless.resilience.policy import Args, AsyncCall, Kwargs

if TYPE_CHECKING:
    from gapless.resilience.hedge import HedgeLayer

Attempt = asyncio.Task[Any]


class Race:
    """The first attempt runs in the caller's task. When a hedge wins, it is cancelled there and the cancellation is
    taken back, as `asyncio.timeout` does; so a client's own cancellation is told apart."""

    __slots__ = (
        "_after_s",
        "_args",
        "_before",
        "_began",
        "_call",
        "_context",
        "_end",
        "_hedges",
        "_kwargs",
        "_layer",
        "_left",
        "_stop",
        "_task",
        "_winner",
    )

    def __init__(self, layer: HedgeLayer, call: AsyncCall, args: Args, kwargs: Kwargs, end: float) -> None:
        self._layer, self._call, self._args, self._kwargs = layer, call, args, kwargs
        self._end = end
        self._task: Attempt | None = None
        """The caller's task while the first attempt runs."""
        self._hedges: list[Attempt] = []
        self._winner: Attempt | None = None
        self._stop: Callable[[], None] | None = None

    async def run(self, after_s: float, most: int, context: Context) -> Any:
        binding = self._layer.binding
        self._task = asyncio.current_task()
        if self._task is None:  # driven by hand: nobody could be cancelled
            return await self._call(self._args, self._kwargs)
        self._before = self._task.cancelling()
        self._after_s, self._left, self._context = after_s, most, context
        self._began = binding.now()
        self._stop = binding.world.after(after_s, self._due)
        try:
            result = await self._call(self._args, self._kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again by _failed, unless a hedge has an answer
            if not self._beaten():
                return await self._failed(error)
        else:
            if not self._beaten():  # otherwise it came at the last moment, in spite of its cancellation
                self._learn(self._layer.binding.now() - self._began)
                await self._end_all()
                return result
        self._learn(math.inf)
        return await self._won_by(self._winner)

    async def _failed(self, error: BaseException) -> Any:
        """The first attempt has no answer, and no hedge had one until now."""
        if isinstance(error, Exception):
            return await self._other_answer(error)
        if isinstance(error, asyncio.CancelledError):
            if deadline.cut(self._layer.binding.now()):
                self._learn(math.inf)
            await self._end_all()
        for each in self._hedges:  # the process or the coroutine is being closed: there is no time to wait
            each.cancel(BEATEN)
        raise error

    def _due(self) -> None:
        """The first attempt takes too long. Nothing starts at or after the deadline, or for a client who has gone."""
        layer, task = self._layer, self._task
        self._stop = None
        if task is None or self._winner or layer.binding.now() >= self._end or task.cancelling() > self._before:
            return
        if not layer.allowed():
            layer.state.spared += 1
            return
        layer.state.hedged += 1
        self._left -= 1
        attempt = asyncio.get_running_loop().create_task(self._attempt(), context=self._context.copy())
        attempt.add_done_callback(self._ended)
        self._hedges.append(attempt)
        if layer.binding.hooks:
            layer.binding.emit(
                CallHedged(guard=layer.binding.guard, policy="hedge", after_s=layer.binding.now() - self._began)
            )
        if self._left:
            self._stop = layer.binding.world.after(self._after_s, self._due)

    async def _attempt(self) -> Any:
        deadline.check(self._layer.binding, "hedge")
        return await self._call(self._args, self._kwargs)

    def _ended(self, attempt: Attempt) -> None:
        """A hedge ended. With an answer, and before the first attempt: it has won."""
        if attempt.cancelled() or attempt.exception() is not None:
            return
        if self._task is not None and self._winner is None:
            self._winner = attempt
            self._task.cancel(BEATEN)

    def _beaten(self) -> bool:
        """The first attempt is over. Was it because a hedge has won, and for no other reason?"""
        task, self._task = self._task, None
        if self._stop is not None:
            self._stop()
            self._stop = None
        assert task is not None
        return self._winner is not None and task.uncancel() <= self._before

    async def _other_answer(self, error: BaseException) -> Any:
        """The first attempt failed: the hedges under way may still answer; otherwise its failure is the call's."""
        running = set(self._hedges)
        try:
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    if not attempt.cancelled() and attempt.exception() is None:
                        return await self._won_by(attempt)
        except asyncio.CancelledError:
            await self._end_all()
            raise
        raise error

    async def _won_by(self, winner: Attempt | None) -> Any:
        assert winner is not None
        self._layer.state.won += 1
        await self._end_all(1 + self._hedges.index(winner))
        return winner.result()

    async def _end_all(self, winner: int = 0) -> None:
        """Cancel the hedges that still run, and wait for them, whatever happens meanwhile. `winner` 0: the first."""
        if not self._hedges:
            return
        running = {each for each in self._hedges if not each.done()}
        cancelled: asyncio.CancelledError | None = None
        for each in running:
            each.cancel(BEATEN)
        while running:
            try:
                _, running = await asyncio.wait(running)
            except asyncio.CancelledError as error:
                cancelled, running = error, {each for each in running if not each.done()}
        binding = self._layer.binding
        if binding.hooks:
            binding.emit(HedgeEnded(guard=binding.guard, policy="hedge", winner=winner + 1))
        if cancelled is not None:
            raise cancelled

    def _learn(self, took_s: float) -> None:
        """`took_s` of the first attempt; infinite when it was ended."""
        if self._layer.state.quantile is not None:
            self._layer.state.quantile.record(took_s)

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

    def __init__(
        self,
        layer: HedgeLayer,
        call: AsyncCall,
        task: Attempt,
        before: int,
        began: float,
        end: float,
        args: Args,
        kwargs: Kwargs,
        context: Context,
    ) -> None:
        """`before`: the cancellations of the task that had been asked for when the call began."""
        self._layer, self._call, self._args, self._kwargs, self._context = layer, call, args, kwargs, context
        self._before, self._began, self._end = before, began, end
        self._task: Attempt | None = task
        """The caller's task while the first attempt runs."""
        self._hedges: list[Attempt] = []
        self._winner: Attempt | None = None
        self._left = layer.policy.max
        self._stop: Callable[[], None] | None = None

    def hedge(self) -> None:
        """The first attempt takes too long. Nothing starts at or after the deadline, or for a client who has gone."""
        layer, task, now = self._layer, self._task, self._layer.binding.now()
        self._stop = None
        if task is None or self._winner or now >= self._end or task.cancelling() > self._before or not layer.allowed():
            return
        self._left -= 1
        attempt = asyncio.get_running_loop().create_task(self._attempt(), context=self._context.copy())
        attempt.add_done_callback(self._ended)
        self._hedges.append(attempt)
        if layer.binding.hooks:
            layer.binding.emit(CallHedged(guard=layer.binding.guard, policy="hedge", after_s=now - self._began))
        if self._left:
            after_s = (now - self._began) / len(self._hedges)
            self._stop = layer.binding.world.after(after_s, self.hedge)

    async def answered(self, result: Any) -> Any:
        """The first attempt has an answer; so may a hedge, if the first was cancelled and answered all the same."""
        if self._beaten():
            return await self._won_by(self._winner)
        self._layer.learn(self._layer.binding.now() - self._began)
        await self._end_all()
        return result

    async def failed(self, error: BaseException) -> Any:
        """The first attempt has no answer. Raises its error unless a hedge has one."""
        if self._beaten():
            return await self._won_by(self._winner)
        if isinstance(error, Exception):
            return await self._other_answer(error)
        if isinstance(error, asyncio.CancelledError):
            self._layer.learn_from_cut()
            await self._end_all()
        for each in self._hedges:  # the process or the coroutine is being closed: there is no time to wait
            each.cancel(BEATEN)
        raise error

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
        self._layer.learn(math.inf)
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

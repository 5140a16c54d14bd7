"""A worker's answers about its inside: one question at a time, and none may cost a request."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gapless.observe.profile.values import from_plain, grown, plain

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.server")

ASKED = "debug:"
"""What the questions of `Ask` begin with, followed by `cpu SECONDS`, `heap`, `tasks`, `baseline` or `leaks`."""
LONGEST_S = 60.0


class Debug:
    """`answer` gives a profile as `observe.profile.values.plain`, or `{"error": …}`.

    Leaks are what has been added since `baseline` when nothing is under way any more: `leave` asks that another worker
    takes this one's place, and `left` is called when the last request has ended.
    """

    def __init__(self, world: World, leave: Callable[[], bool]) -> None:
        self._world = world
        self._leave = leave
        self._busy = ""
        self._baseline = b""
        """As one object, because thousands of small ones would be taken for a leak themselves."""
        self._emptied: asyncio.Event | None = None
        self._looked = asyncio.Event()
        self._questions: dict[str, Callable[[float], Awaitable[dict[str, Any]]]] = {
            "cpu": self._cpu,
            "heap": self._heap,
            "tasks": self._tasks,
            "baseline": self._begin,
            "leaks": self._leaks,
        }

    async def answer(self, what: str) -> dict[str, Any]:
        kind, _, argument = what.removeprefix(ASKED).partition(" ")
        if self._busy:
            return {"error": f"it is being asked for {self._busy} already"}
        if kind not in self._questions:
            return {"error": f"this version of Gapless cannot tell {kind!r}"}
        self._busy = kind
        try:
            return await self._questions[kind](min(float(argument or 0), LONGEST_S))
        except Exception as error:  # noqa: BLE001 - logged and told; the worker goes on
            _log.exception("the question for %s failed", what)
            return {"error": repr(error)}
        finally:
            self._busy = ""

    async def left(self) -> None:
        """This worker serves nobody any more: whoever waits for that looks now, and is waited for."""
        if self._emptied:
            self._emptied.set()
            await self._looked.wait()

    async def _cpu(self, seconds: float) -> dict[str, Any]:
        from gapless.server.profile.cpu import Sampler

        sampler = Sampler()
        sampler.start()
        try:
            await self._world.sleep(seconds)
        finally:
            profile = sampler.stop()
        return plain(profile)

    async def _heap(self, _: float) -> dict[str, Any]:
        from gapless.server.profile.heap import heap

        return plain(await asyncio.to_thread(heap))

    async def _tasks(self, _: float) -> dict[str, Any]:
        from gapless.server.profile.tasks import tasks

        return plain(tasks())

    async def _begin(self, _: float) -> dict[str, Any]:
        from gapless.server.profile.heap import heap

        gc.collect()
        told = plain(await asyncio.to_thread(heap))
        self._baseline = json.dumps(told).encode()
        return told

    async def _leaks(self, _: float) -> dict[str, Any]:
        if not self._baseline:
            return {"error": "there is no baseline to compare with"}
        self._emptied = asyncio.Event()
        if not self._leave():
            self._emptied = None
            return {"error": "it is about to leave"}
        await self._emptied.wait()
        try:
            return await asyncio.to_thread(_grown, self._baseline)
        finally:
            self._looked.set()


def _grown(baseline: bytes) -> dict[str, Any]:
    from gapless.server.profile.heap import GROWN_SHOWN, heap, holders

    gc.collect()
    now = heap()
    more = grown(from_plain(json.loads(baseline)), now)
    largest = sorted(more.samples, key=lambda stack: more.samples[stack][-1], reverse=True)[:GROWN_SHOWN]
    return {**plain(more), "holders": holders(stack[0].name for stack in largest)}

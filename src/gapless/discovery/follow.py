"""A part of the store kept in memory, never behind what this process was told is written.

The copy is made of what the store's watch tells, and of nothing else: so it is also right when several processes write
to one store. Whoever has written waits (`reached`) until the copy shows it, and reads what it wrote.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from gapless.core.errors import Compacted, GaplessError, StoreClosed
from gapless.core.ports import Listing, Store, Update, World

AGAIN_S = 0.2
"""Before the store is asked again when it could not be; meanwhile readers have what was known last."""

_log = logging.getLogger("gapless.discovery")


class Follower:
    """Keeps a copy of what lies below `prefix`. `reset` takes all of it, `apply` the writes of one revision each; both
    are called from the loop, must not raise, and run before `reached` returns."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        world: World,
        *,
        reset: Callable[[Listing], None],
        apply: Callable[[tuple[Update, ...]], None],
    ) -> None:
        self.revision = 0
        """Of the newest write below the prefix that the copy shows; at first, that of the store."""
        self._store, self._prefix, self._world = store, prefix, world
        self._reset, self._apply = reset, apply
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def start(self) -> None:
        """The copy is complete when this returns. Raises what the store raises."""
        await self._list()
        self._task = asyncio.create_task(self._follow(), name=f"follow {self._prefix}")

    async def aclose(self) -> None:
        """The copy stays as it is; who waits for more gets StoreClosed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self._give_up()

    async def reached(self, revision: int) -> None:
        """Returns once the copy shows the write of this revision, which must be one below the prefix. Raises
        StoreClosed when that will never be."""
        if self.revision >= revision:
            return
        if self._task is None or self._task.done():
            raise StoreClosed
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((revision, future))
        await future

    async def _list(self) -> None:
        listing = await self._store.list(self._prefix)
        self._reset(listing)
        self._moved(listing.revision)

    async def _follow(self) -> None:
        try:
            while await self._again():
                await self._world.sleep(AGAIN_S)
        finally:
            self._give_up()

    async def _again(self) -> bool:
        """Follow until that breaks; False when the store has been closed."""
        try:
            async for group in self._store.watch(self._prefix, after=self.revision):
                self._apply(group)
                self._moved(group[-1].revision)
            return False
        except StoreClosed:
            return False
        except Compacted:
            return await self._listed_anew()
        except GaplessError as error:
            _log.warning("%s is no longer followed, and will be again in a moment: %s", self._prefix, error)
            return True

    async def _listed_anew(self) -> bool:
        try:
            await self._list()
        except StoreClosed:
            return False
        except GaplessError as error:
            _log.warning("%s cannot be listed, and will be again in a moment: %s", self._prefix, error)
        return True

    def _moved(self, revision: int) -> None:
        self.revision = revision
        waiting, self._waiting = self._waiting, deque()
        for wanted, future in waiting:
            if wanted > revision:
                self._waiting.append((wanted, future))
            elif not future.done():
                future.set_result(None)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            if not future.done():
                future.set_exception(StoreClosed())

"""Live pages: whoever looks at a page is told what has changed in it.

One task per page that is looked at makes it anew, when a record was written and once a second for the figures; all who
look at the same page share it. Nobody looks: no task, no work. Each stream compares what it has sent last with what is
there, so that a slow one gets fewer and newer states; one that takes nothing for `SEND_LIMIT_S` is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gapless.core.errors import GaplessError

K = TypeVar("K")
Regions = dict[str, str]
_log = logging.getLogger("gapless.console")

STREAMS = 64
"""At the same time: some people with some tabs each. A stream costs a few kilobytes, a page that is looked at some
milliseconds a second."""
REFRESH_S = 1.0
GATHER_S = 0.03
"""A change seldom comes alone: its neighbours are waited for so long."""
SEND_LIMIT_S = 10.0


@dataclass(slots=True)
class _Look:
    """A page that somebody looks at."""

    regions: Regions = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    viewers: int = 0
    task: asyncio.Task[None] | None = None


class Hub(Generic[K]):
    """`make` gives a page's regions; `bell` is set at the next write of a record."""

    def __init__(
        self,
        make: Callable[[K], Awaitable[Regions]],
        bell: Callable[[], asyncio.Event],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._make, self._bell, self._sleep = make, bell, sleep
        self._looks: dict[K, _Look] = {}
        self.streams = 0

    @property
    def full(self) -> bool:
        return self.streams >= STREAMS

    async def follow(self, page: K) -> AsyncIterator[Regions]:
        """All regions, then those that have changed, for as long as they are asked for."""
        with self._looking(page) as look:
            sent: Regions = {}
            while True:
                changed = look.changed
                if news := {name: html for name, html in look.regions.items() if sent.get(name) != html}:
                    sent = look.regions
                    yield news
                await changed.wait()

    @contextlib.contextmanager
    def _looking(self, page: K) -> Iterator[_Look]:
        look = self._looks.setdefault(page, _Look())
        look.viewers += 1
        self.streams += 1
        if look.task is None:
            look.task = asyncio.create_task(self._keep(page, look), name=f"console {page}")
        try:
            yield look
        finally:
            look.viewers -= 1
            self.streams -= 1
            if not look.viewers and look.task:
                look.task.cancel()
                self._looks.pop(page, None)

    async def _keep(self, page: K, look: _Look) -> None:
        while True:
            bell = self._bell()
            try:
                regions = await self._make(page)
            except GaplessError as error:
                _log.debug("the page %s is no more: %s", page, error)  # what it was about has gone
            except Exception:  # noqa: BLE001 - told in the log; the page stays as it was and is tried again
                _log.exception("the page %s could not be made", page)
            else:
                self._show(look, regions)
            await self._next(bell)

    def _show(self, look: _Look, regions: Regions) -> None:
        if regions != look.regions:
            look.regions = regions
            look.changed.set()
            look.changed = asyncio.Event()

    async def _next(self, bell: asyncio.Event) -> None:
        written = asyncio.ensure_future(bell.wait())
        refresh = asyncio.ensure_future(self._sleep(REFRESH_S))
        try:
            await asyncio.wait({written, refresh}, return_when=asyncio.FIRST_COMPLETED)
            if written.done():
                await self._sleep(GATHER_S)
        finally:
            written.cancel()
            refresh.cancel()

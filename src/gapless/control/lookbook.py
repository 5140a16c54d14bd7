"""Keeps the looks at rollouts in the store. Noting one costs nothing and waits for nothing; they are written a few
seconds later, a chunk at a time, so that a kill loses the last seconds of a drawing and nothing else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from gapless.core import codec
from gapless.core.errors import GaplessError
from gapless.core.model import Rollout, Window
from gapless.core.model.look import Look, LookChunk
from gapless.core.ports import Delete, Put, Store, World
from gapless.rollout import looks
from gapless.rollout.analysis import Verdict

_log = logging.getLogger("gapless.control")

WRITE_EVERY_S = 5.0
ROLLOUTS_KEPT = 20
"""Of each service, whose looks are kept."""
UNWRITTEN_MOST = 1_200
"""Looks held back while the store cannot be written: ten minutes."""


@dataclass(slots=True)
class _Book:
    """Of one rollout. `first`: the number of the open chunk's first look; -1 until the store was asked."""

    first: int = -1
    open: list[Look] = field(default_factory=list)
    written: int = 0
    """Looks of the open chunk that the store has."""
    last: Look | None = None
    ended: bool = False


class Lookbook:
    """`step` writes what was noted."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self._books: dict[tuple[str, int], _Book] = {}

    def note(self, rollout: Rollout, verdict: Verdict, canary: Window, stable: Window, now_at: float) -> None:
        """A look at a rollout, as it stood before what came of it."""
        book = self._books.setdefault((rollout.service, rollout.number), _Book())
        look = looks.look_of(rollout, verdict, canary, stable, now_at)
        if looks.is_worth_keeping(book.last, look):
            book.last = look
            book.open.append(look)
            del book.open[: max(len(book.open) - UNWRITTEN_MOST, 0)]

    def follow(self, rollouts: Iterable[Rollout]) -> None:
        """Those at which more looks may follow; of all others what was noted is written, and then they are closed."""
        open_ones = {(rollout.service, rollout.number) for rollout in rollouts}
        for place, book in self._books.items():
            book.ended = place not in open_ones

    async def looks(self, service: str, number: int) -> list[Look]:
        """All that is kept of a rollout, oldest first."""
        book = self._books.get((service, number), _Book())
        found = looks.in_order(await self._chunks(service, number))
        return found + [look for look in book.open if not found or look.at > found[-1].at]

    async def step(self) -> None:
        """Write. What the store refuses is tried again at the next step."""
        for place, book in list(self._books.items()):
            try:
                await self._write(place, book)
            except GaplessError as error:
                _log.warning("looks at rollout %d of %s are not written yet: %s", place[1], place[0], error)

    async def _write(self, place: tuple[str, int], book: _Book) -> None:
        if book.first < 0:
            book.first = await self._next(place)
            await self._forget(*place)
        while len(book.open) > book.written:
            chunk = LookChunk(first=book.first, level=0, looks=tuple(book.open[: looks.CHUNK]))
            await self._store.put(_key(*place, chunk.first), codec.encode(chunk))
            book.written = len(chunk.looks)
            if book.written == looks.CHUNK:
                del book.open[: looks.CHUNK]
                book.first, book.written = book.first + looks.CHUNK, 0
                await self._merge(place)
        if book.ended:
            del self._books[place]

    async def _next(self, place: tuple[str, int]) -> int:
        """After what an earlier control plane wrote."""
        chunks = await self._chunks(*place)
        full = [chunk.first + len(chunk.looks) * looks.MERGED**chunk.level for chunk in chunks]
        return max(full, default=0)

    async def _merge(self, place: tuple[str, int]) -> None:
        while found := looks.merged(await self._chunks(*place)):
            one, old = found
            gone = [Delete(key=_key(*place, chunk.first)) for chunk in old if chunk.first != one.first]
            await self._store.transact(Put(key=_key(*place, one.first), value=codec.encode(one)), *gone)

    async def _chunks(self, service: str, number: int) -> list[LookChunk]:
        listing = await self._store.list(f"looks/{service}/{number:06d}/")
        return [codec.decode(entry.value, LookChunk) for entry in listing.entries]

    async def _forget(self, service: str, number: int) -> None:
        """Looks at rollouts that are long over."""
        listing = await self._store.list(f"looks/{service}/")
        oldest = _key(service, max(number - ROLLOUTS_KEPT + 1, 0), 0)
        with contextlib.suppress(GaplessError):
            for entry in listing.entries:
                if entry.key < oldest:
                    await self._store.delete(entry.key)


def _key(service: str, number: int, first: int) -> str:
    return f"looks/{service}/{number:06d}/{first:09d}"

"""The store as a leader sees it: each of his writes succeeds only while he leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from gapless.control.leader import LEADER, Candidate, Term, holds
from gapless.core.errors import Conflict, NotLeader
from gapless.core.ports import Check, Delete, Entry, Listing, Op, Put, Store, Update, World


class Leadership:
    """A term under way, shared by those who act in it. `lost` is set when it is over, and `reason` says why."""

    def __init__(self, world: World, term: Term) -> None:
        self._world = world
        self._term = term
        self.lost = asyncio.Event()
        self.reason = ""
        self.standbys: tuple[Candidate, ...] = ()
        """Who would follow, as seen at the last look."""

    @property
    def term(self) -> Term:
        return self._term

    def held(self, at: float) -> None:
        """The store has confirmed it, asked at this moment of our clock."""
        self._term = Term(revision=self._term.revision, held_at=at)

    def lose(self, reason: str) -> NotLeader:
        """It is over; the first reason stays."""
        self.reason = self.reason or reason
        self.lost.set()
        return NotLeader(f"this control plane no longer leads: {self.reason}")

    def require(self) -> None:
        """Raises NotLeader when it is over, also when nobody has noticed before because this process was stopped."""
        if self.lost.is_set():
            raise self.lose(self.reason)
        now = self._world.now()
        if not holds(self._term, now):
            raise self.lose(f"the lease could not be renewed for {now - self._term.held_at:.1f} s")


class FencedStore:
    """`core.ports.Store`. Writes raise NotLeader when the term is over, and have done nothing then. `close` leaves the
    store open: it is whose it was before."""

    def __init__(self, store: Store, leadership: Leadership) -> None:
        self._store = store
        self._leadership = leadership

    async def get(self, key: str) -> Entry | None:
        return await self._store.get(key)

    async def list(self, prefix: str) -> Listing:
        return await self._store.list(prefix)

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: str = "") -> int:
        return await self.transact(Put(key=key, value=value, expect=expect, lease=lease))

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        return await self.transact(Delete(key=key, expect=expect))

    async def transact(self, *ops: Op) -> int:
        self._leadership.require()
        try:
            # First, so that of several conflicts it is this one that is told.
            return await self._store.transact(Check(key=LEADER, expect=self._leadership.term.revision), *ops)
        except Conflict as error:
            if error.key == LEADER:
                raise self._leadership.lose("another one leads") from error
            raise

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[tuple[Update, ...]]:
        return self._store.watch(prefix, after=after)

    async def history(self, key: str, *, limit: int = 100) -> Sequence[Update]:
        return await self._store.history(key, limit=limit)

    async def grant(self, ttl_s: float) -> str:
        return await self._store.grant(ttl_s)

    async def renew(self, lease: str) -> None:
        await self._store.renew(lease)

    async def revoke(self, lease: str) -> None:
        await self._store.revoke(lease)

    async def close(self) -> None:
        return

"""Standing for election, leading and standing by, on a store that several control planes share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gapless.control.fence import Leadership
from gapless.control.leader import (
    HOLD_S,
    LEADER,
    LEASE_S,
    LOOK_EVERY_S,
    STANDBYS,
    Campaign,
    Candidate,
    Renew,
    StepDown,
    Term,
    Wait,
    follow,
    lead,
)
from gapless.core import codec
from gapless.core.errors import Conflict, GaplessError, LeaseLost, StoreUnreachable
from gapless.core.ports import Delete, Put, Store, World

_log = logging.getLogger("gapless.control")


class Election:
    """One candidate. `win`, then `hold`; then again, or `withdraw`."""

    def __init__(self, store: Store, me: Candidate, world: World) -> None:
        self.me = me
        self._store = store
        self._world = world
        self._lease = ""
        self._standing = 0
        """Revision of our key among those who stand by; 0: it is not there."""
        self._seen = ""
        self._told = ""

    async def win(self, waiting: Callable[[Candidate], None] = lambda leader: None) -> Leadership | None:
        """Stand by until there is no other leader, and become it; None when whoever led has sent the standbys home.
        `waiting` is told of each leader there is meanwhile. A store that cannot be reached is waited for."""
        while True:
            try:
                if not await self._stands():
                    return None
                leader, revision = await self._look()
                match follow(self.me.id, leader, revision):
                    case Campaign(expect):
                        if won := await self._campaign(expect):
                            return won
                    case Wait(seconds):
                        self._see(leader, waiting)
                        await self._register()
                        await self._world.sleep(seconds)
                self._told = ""
            except GaplessError as error:
                self._tell(error)
                await self._world.sleep(LOOK_EVERY_S)

    def _see(self, leader: Candidate | None, waiting: Callable[[Candidate], None]) -> None:
        if leader is not None and leader.id != self._seen:
            self._seen = leader.id
            waiting(leader)

    async def leader(self) -> Candidate | None:
        """Whoever leads now."""
        return (await self._look())[0]

    async def _look(self) -> tuple[Candidate | None, int]:
        entry = await self._store.get(LEADER)
        return (codec.decode(entry.value, Candidate), entry.revision) if entry else (None, 0)

    async def _campaign(self, expect: int) -> Leadership | None:
        at = self._world.now()
        await self._have_lease()
        try:
            await self._store.renew(self._lease)  # the term is counted from here
            leader = Put(key=LEADER, value=codec.encode(self.me), expect=expect, lease=self._lease)
            gone = [Delete(key=self._key, expect=self._standing)] if self._standing else []
            revision = await self._store.transact(leader, *gone)
        except Conflict:
            return None  # somebody was quicker, or has sent us home
        except LeaseLost:
            self._lease, self._standing = "", 0
            return None
        except StoreUnreachable:
            # Nobody knows whether it was written. If it was, it hangs on this lease: then let it go with it.
            await self._drop_lease()
            raise
        self._standing, self._seen = 0, self.me.id
        return Leadership(self._world, Term(revision=revision, held_at=at))

    async def hold(self, leadership: Leadership) -> None:
        """Renew the lease until it is lost, or this is cancelled."""
        failed = False
        while not leadership.lost.is_set():
            match lead(leadership.term, self._world.now(), failed=failed):
                case StepDown(reason):
                    leadership.lose(reason)
                case Wait(seconds):
                    failed = False
                    await self._world.sleep(seconds)
                case Renew():
                    failed = not await self._renew(leadership, HOLD_S - (self._world.now() - leadership.term.held_at))
        self._lease = ""

    async def _renew(self, leadership: Leadership, limit_s: float) -> bool:
        at = self._world.now()
        try:
            async with asyncio.timeout(limit_s):
                await self._store.renew(self._lease)
            leadership.held(at)
            leadership.standbys = await self.standbys()
        except LeaseLost:
            leadership.lose("the lease has expired")
        except TimeoutError:
            return False  # and too late for another try: `lead` says so
        except GaplessError as error:
            self._tell(error)
            return False
        return True

    async def standbys(self) -> tuple[Candidate, ...]:
        """Whoever would follow."""
        entries = (await self._store.list(STANDBYS)).entries
        return tuple(codec.decode(entry.value, Candidate) for entry in entries)

    async def dismiss_standbys(self) -> None:
        """The system is taken down: nobody is to follow. Theirs to notice is that their keys are gone."""
        for one in await self.standbys():
            await self._store.delete(STANDBYS + one.id)

    async def withdraw(self) -> None:
        """Lead and stand by no longer; who stands by need not wait for the lease to lapse."""
        try:
            await self._drop_lease()
        except GaplessError as error:
            _log.warning("the lease could not be given up, and lapses by itself: %s", error.what)

    async def _stands(self) -> bool:
        """Whether we may go on standing by; False when we were sent home."""
        if not self._standing:
            return True
        try:
            await self._store.renew(self._lease)
        except LeaseLost:
            self._lease, self._standing = "", 0
            return True
        return await self._store.get(self._key) is not None

    async def _register(self) -> None:
        """Be seen as one who stands by."""
        if not self._standing:
            await self._have_lease()
            self._standing = await self._store.put(self._key, codec.encode(self.me), lease=self._lease)

    async def _have_lease(self) -> None:
        if not self._lease:
            self._lease, self._standing = await self._store.grant(LEASE_S), 0

    async def _drop_lease(self) -> None:
        lease, self._lease, self._standing = self._lease, "", 0
        if lease:
            await self._store.revoke(lease)

    @property
    def _key(self) -> str:
        return STANDBYS + self.me.id

    def _tell(self, error: GaplessError) -> None:
        if error.what != self._told:
            _log.warning("the store, asked about the leader: %s", error)
        self._told = error.what

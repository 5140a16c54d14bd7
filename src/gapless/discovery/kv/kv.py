"""Keys, locks and sessions on the store, with the meaning of Consul's: decided on the copy in memory, written in one
transaction, and decided again when somebody else was quicker. What was acknowledged is durable, and read by everybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec

from gapless.core.codec import encode
from gapless.core.errors import Busy, Conflict, GaplessError
from gapless.core.ports import Check, Store, Update, World
from gapless.discovery.follow import Follower
from gapless.discovery.kv.draft import Draft
from gapless.discovery.kv.rows import PREFIX, Session, session_key
from gapless.discovery.kv.state import State

T = TypeVar("T")

ATTEMPTS = 100
"""Each loses to a write of somebody else, so that somebody gets on; so many in a row mean that something is wrong."""
LOOKS = 16
"""Turns of the loop in which the copy hears of a write that is known to be there."""
LOOK_AGAIN_S = 0.01
HEAL_AGAIN_S = 1.0
LONGEST_DELAY_S = 60.0
"""Of a lock, whatever its session asks for."""

_log = logging.getLogger("gapless.registry")


class KeyValues:
    """Call `start` first. Raises what the store raises."""

    def __init__(self, store: Store, world: World) -> None:
        self.state = State()
        self._store, self._world = store, world
        self._follower = Follower(store, PREFIX, world, reset=self.state.reset, apply=self._apply)
        self._delays: dict[str, float] = {}
        self._healer: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """The copy is complete when this returns; locks of sessions that ended while nobody looked are released."""
        await self._follower.start()
        self._ended.set()
        self._healer = asyncio.create_task(self._heal(), name="release locks")

    async def aclose(self) -> None:
        if self._healer is not None:
            self._healer.cancel()
            await asyncio.wait({self._healer})
        await self._follower.aclose()

    async def write(self, decide: Callable[[Draft], T]) -> tuple[T, int]:
        """Perform what `decide` does to a draft, which may be asked several times. Returns its result, and the revision
        at which it became true (the copy's when nothing had to be written). Raises what it raises; Busy."""
        for attempt in range(ATTEMPTS):
            draft = Draft(self.state, self._delayed)
            result = decide(draft)
            ops = draft.ops()
            if not ops:
                return result, self._follower.revision
            try:
                revision = await self._store.transact(*ops)
            except Conflict:
                await self._look_again(attempt)
                continue
            if any(not isinstance(op, Check) for op in ops):
                await self._follower.reached(revision)
            return result, revision
        raise Busy(f"others have written the same keys {ATTEMPTS} times in a row")

    async def _look_again(self, attempt: int) -> None:
        """Let the copy hear of what was written."""
        if attempt < LOOKS:
            await asyncio.sleep(0)
        else:
            await self._world.sleep(LOOK_AGAIN_S)

    # Sessions.

    async def create(self, session: Session, ttl_s: float) -> str:
        """Make it known; returns its id. It ends by itself `ttl_s` after it was last renewed (0: never)."""
        lease = await self._store.grant(ttl_s) if ttl_s else ""
        stored = msgspec.structs.replace(session, lease=lease)
        revision = await self._store.put(session_key(session.id), encode(stored), expect=0, lease=lease)
        await self._follower.reached(revision)
        return session.id

    async def renew(self, session: Session) -> None:
        """Raises LeaseLost when it was too late."""
        if session.lease:
            await self._store.renew(session.lease)

    async def destroy(self, id: str) -> None:  # noqa: A002 - the word of the API
        """End it, and release its locks or delete their keys. No error when it has ended before."""
        session = self.state.sessions.get(id)
        if session is None:
            return
        self._delay(session)
        await self.write(lambda draft: draft.end(id))
        if session.lease:
            await self._store.revoke(session.lease)

    def _apply(self, group: tuple[Update, ...]) -> None:
        self.state.apply(group)
        if self.state.ended:
            for session in self.state.ended:
                self._delay(session)
            self.state.ended.clear()
            self._ended.set()

    async def _heal(self) -> None:
        """Release what sessions held whose time has passed, now or while no registry ran."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            for orphan in [holder for holder in self.state.held if holder not in self.state.sessions]:
                await self._release(orphan)

    async def _release(self, session: str) -> None:
        try:
            await self.write(lambda draft: draft.end(session))
        except GaplessError as error:
            _log.warning("the locks of session %s are not released yet: %s", session, error)
            self._world.after(HEAL_AGAIN_S, self._ended.set)

    def _delay(self, session: Session) -> None:
        now = self._world.now()
        until = now + min(session.lock_delay_s, LONGEST_DELAY_S)
        self._delays = {key: at for key, at in self._delays.items() if at > now}
        self._delays.update(dict.fromkeys(self.state.held.get(session.id, ()), until))

    def _delayed(self, key: str) -> bool:
        return self._delays.get(key, 0.0) > self._world.now()

"""A versioned, watched store on top of anything that can take a batch of commits durably.

All decisions are made in memory, by one writer task that is the only one to change the keys. While the storage takes
one batch, further jobs queue up and share the next (group commit). A job is answered, and its writes become visible to
readers and watches, only after the storage has taken its batch: what is read is durable.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from gapless.core.errors import GaplessError, StoreClosed, StoreFull
from gapless.core.ports import Delete, Entry, Listing, Op, Put, Update, World
from gapless.store._keys import (
    Commit,
    Draft,
    Grant,
    Job,
    Keys,
    Revoke,
    Transact,
    validate,
    validate_key,
    validate_ttl,
)
from gapless.store._leases import Leases
from gapless.store._watch import Group, Log, Watch

BATCH = 512
"""Jobs that share a commit at most: past this the commit is no longer what costs, and the first has waited enough."""
LAPSE_RETRY_S = 1.0
"""How long a lapsed lease waits for space on the disk before its keys are removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of the past is kept."""

    revisions: int = 10_000
    """The last revisions are kept whole: a watch may begin this far back."""
    per_key: int = 100
    """Older writes are kept for the newest so many of each key: a chatty key does not push out the others' history."""
    rows: int = 100_000
    """Writes kept altogether; the oldest go first."""


RETENTION = Retention()


class Storage(Protocol):
    """What a backend adds. Calls never overlap, except that `read` and `history` may come during a `commit`."""

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Make all of them durable or none. Raises StoreFull, StoreBroken."""
        ...

    async def read(self, prefix: str, after: int, until: int, limit: int) -> list[Group]:
        """See `_watch.Past`."""
        ...

    async def history(self, key: str, until: int, limit: int) -> list[Update]:
        """The writes of a key up to a revision, newest first."""
        ...

    async def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Waiting:
    """A job and whoever waits for it."""

    job: Job
    answer: asyncio.Future[Commit]


class Engine:
    """`core.ports.Store` but for opening. Backends construct it with their storage."""

    def __init__(self, world: World, storage: Storage, log: Log) -> None:
        self._world, self._storage, self._log = world, storage, log
        self._keys = Keys()
        self._leases = Leases(world, self._lapse)
        self._open = False
        self._queue: list[Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def _begin(self, keys: Keys) -> None:
        """Open, with what the storage holds."""
        self._keys, self._open = keys, True
        self._log.begin(keys.revision)
        self._leases.begin(keys.leases)

    async def get(self, key: str) -> Entry | None:
        self._must_be_open()
        return self._keys.entries.get(key)

    async def list(self, prefix: str) -> Listing:
        self._must_be_open()
        return Listing(entries=tuple(self._keys.below(prefix)), revision=self._keys.revision)

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: str = "") -> int:
        return await self.transact(Put(key=key, value=value, expect=expect, lease=lease))

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        return await self.transact(Delete(key=key, expect=expect))

    async def transact(self, *ops: Op) -> int:
        """Beyond the port: raises ValueError when a key is written twice or is none, TypeError for a value no bytes."""
        return (await self._submit(Transact(validate(ops)))).revision

    def watch(self, prefix: str, *, after: int) -> Watch:
        self._must_be_open()
        return Watch(self._log, prefix, after)

    async def history(self, key: str, *, limit: int = 100) -> Sequence[Update]:
        self._must_be_open()
        validate_key(key)
        return await self._storage.history(key, self._keys.revision, limit)

    async def grant(self, ttl_s: float) -> str:
        validate_ttl(ttl_s)
        lease = self._world.token() + self._world.token()
        await self._submit(Grant(lease, ttl_s))
        return lease

    async def renew(self, lease: str) -> None:
        self._must_be_open()
        self._leases.renew(lease)

    async def revoke(self, lease: str) -> None:
        await self._submit(Revoke(lease))

    async def close(self) -> None:
        """Finishes what was accepted, then ends the watches. Closing twice is no error."""
        self._open = False
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._leases.stop()
        if self._writer:
            await asyncio.wait({self._writer})
        self._log.close()
        await self._storage.close()

    def _must_be_open(self) -> None:
        if not self._open:
            raise StoreClosed

    async def _submit(self, job: Job) -> Commit:
        self._must_be_open()
        return await self._enqueue(job)

    def _enqueue(self, job: Job) -> asyncio.Future[Commit]:
        loop = asyncio.get_running_loop()
        waiting = Waiting(job, loop.create_future())
        self._queue.append(waiting)
        if self._writer is None:
            self._writer = loop.create_task(self._write())
        return waiting.answer

    async def _write(self) -> None:
        try:
            while self._queue:
                batch = list(islice(self._queue, BATCH))
                del self._queue[:BATCH]
                await self._commit([waiting for waiting in batch if not waiting.answer.done()])
                # Those just answered go first: with their next jobs the next commit is fuller.
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            # The loop is being torn down, and nobody can tell what the storage made of the batch under way.
            self._open = False
            raise
        finally:
            self._writer = None
            abandon(self._queue)
            self._queue.clear()

    async def _commit(self, batch: Sequence[Waiting]) -> None:
        """Decide and store a batch. Whatever goes wrong, everyone in it hears."""
        try:
            outcomes = self._decide(batch)
            commits = [outcome for outcome in outcomes if isinstance(outcome, Commit) and not outcome.empty]
            if commits:
                await self._storage.commit(commits)
        except StoreFull as error:
            # What failed may be the size of one of them: the others shall not suffer for their neighbour.
            await self._apart(batch, error)
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            answer(batch, [error] * len(batch))
        except asyncio.CancelledError:
            abandon(batch)
            raise
        else:
            self._publish(commits)
            answer(batch, outcomes)

    async def _apart(self, batch: Sequence[Waiting], error: StoreFull) -> None:
        if len(batch) == 1:
            answer(batch, [error])
        else:
            for waiting in batch:
                await self._commit([waiting])

    def _decide(self, batch: Sequence[Waiting]) -> Sequence[Commit | Exception]:
        draft = Draft(self._keys)
        outcomes = deque[Commit | Exception]()
        for waiting in batch:
            try:
                outcomes.append(draft.decide(waiting.job))
            except GaplessError as error:
                outcomes.append(error)
        return outcomes

    def _publish(self, commits: Sequence[Commit]) -> None:
        """The storage has them: let readers, watches and leases know."""
        for commit in commits:
            self._keys.apply(commit)
            if commit.granted:
                self._leases.add(commit.granted.lease, commit.granted.ttl_s)
            self._leases.drop(commit.ended)
            if commit.changes:
                self._log.append(commit.updates)

    def _lapse(self, lease: str) -> None:
        """The lease was not renewed in time: its keys go, as soon as the storage can take that."""
        if self._open:
            self._enqueue(Revoke(lease)).add_done_callback(lambda answer: self._lapsed(lease, answer))

    def _lapsed(self, lease: str, answer: asyncio.Future[Commit]) -> None:
        if not answer.cancelled() and answer.exception():
            self._world.after(LAPSE_RETRY_S, lambda: self._lapse(lease))


def answer(batch: Sequence[Waiting], outcomes: Sequence[Commit | Exception]) -> None:
    for waiting, outcome in zip(batch, outcomes, strict=True):
        if waiting.answer.done():
            continue  # whoever asked was cancelled meanwhile
        if isinstance(outcome, Commit):
            waiting.answer.set_result(outcome)
        else:
            waiting.answer.set_exception(outcome)


def abandon(batch: Sequence[Waiting]) -> None:
    for waiting in batch:
        waiting.answer.cancel()

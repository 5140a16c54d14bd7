"""The recent past and the watches that read it.

A watch holds no queue, only the revision up to which it has told everything. It waits until something below its prefix
is written, then reads the log from there: the recent part from memory, what is older from the storage. A slow watcher
thus costs nothing but its own delay, and one whose prefix is quiet is not woken at all.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from typing import Protocol

from gapless.core.errors import GaplessError
from gapless.core.ports import Update

Group = tuple[Update, ...]
"""The writes of one revision."""

CHUNK = 64
"""Revisions that a watch takes from the log at a time: few, so that it holds little; many, so that it catches up."""


class Past(Protocol):
    """What the storage tells of the time before the log in memory."""

    async def read(self, prefix: str, after: int, until: int, limit: int) -> list[Group]:
        """The first `limit` groups below the prefix in (after, until]. Raises Compacted when `after` is too old."""
        ...


class Log:
    """The writes of the last revisions, in memory, and those who wait for the next one."""

    def __init__(self, past: Past, keep: int, keep_bytes: int = sys.maxsize) -> None:
        self.revision = 0
        """Everything up to here has been told."""
        self.start = 0
        """The log in memory holds all revisions above this one."""
        self.closed = False
        self.error: GaplessError | None = None
        """Why it ended, when that was not because the store was closed."""
        self.past = past
        self._keep, self._keep_bytes = keep, keep_bytes
        self._groups: deque[Group] = deque()
        self._bytes = 0
        self._waiting: dict[str, set[asyncio.Future[int]]] = {}
        self._lengths: Counter[int] = Counter()

    def begin(self, revision: int) -> None:
        """Start at a revision whose past lies in the storage."""
        self.revision = self.start = revision

    def append(self, group: Group) -> None:
        """Tell the writes of the next revision."""
        self._groups.append(group)
        self._bytes += _size(group)
        self.revision = group[0].revision
        while len(self._groups) > self._keep or (self._bytes > self._keep_bytes and len(self._groups) > 1):
            oldest = self._groups.popleft()
            self._bytes -= _size(oldest)
            self.start = oldest[0].revision
        for update in group:
            self._wake(update.key)

    def close(self) -> None:
        """Every watch ends."""
        self.closed = True
        for prefix in tuple(self._waiting):
            self._release(prefix)

    def fail(self, error: GaplessError) -> None:
        """Nothing can be told any more: every watch raises the error."""
        self.error = error
        self.close()

    async def read(self, prefix: str, after: int) -> tuple[list[Group], int]:
        """Some groups below the prefix after a revision, and the revision up to which they are all."""
        until = self.revision
        if after < self.start:
            groups = await self.past.read(prefix, after, until, CHUNK)
        else:
            groups = list(islice(below(prefix, self._since(after)), CHUNK))
        return groups, groups[-1][0].revision if len(groups) == CHUNK else until

    def _since(self, after: int) -> Iterable[Group]:
        """What was written after a revision. Reached from the nearer end: those who follow are behind by a few of the
        thousands that are kept, and would walk through all of them each time."""
        newer = self.revision - after
        if newer > len(self._groups) // 2:
            return islice(self._groups, after - self.start, None)
        return reversed(list(islice(reversed(self._groups), newer)))

    async def wait(self, prefix: str) -> int:
        """The revision of the next write below the prefix; any when the log is closed."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(prefix, set()).add(future)
        self._lengths[len(prefix)] += 1
        try:
            return await future
        finally:
            self._forget(prefix, future)

    def _wake(self, key: str) -> None:
        # Few lengths of prefixes are in use, so this costs a handful of look-ups however many watches there are.
        for length in tuple(self._lengths):
            if length <= len(key):
                self._release(key[:length])

    def _release(self, prefix: str) -> None:
        for future in self._waiting.get(prefix, ()):
            if not future.done():
                future.set_result(self.revision)

    def _forget(self, prefix: str, future: asyncio.Future[int]) -> None:
        self._waiting[prefix].discard(future)
        if not self._waiting[prefix]:
            del self._waiting[prefix]
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]


class Watch:
    """`Store.watch`: an async iterator of groups. Abandoning it needs no clean-up."""

    def __init__(self, log: Log, prefix: str, after: int) -> None:
        self._log, self._prefix, self._after = log, prefix, after
        self._groups: deque[Group] = deque()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Group:
        while not self._log.closed:
            if self._groups:
                return self._groups.popleft()
            if self._after < self._log.revision:
                groups, self._after = await self._log.read(self._prefix, self._after)
                self._groups.extend(groups)
            else:
                # Nothing below the prefix was written while waiting, so all before the waking revision is told.
                self._after = max(self._after, await self._log.wait(self._prefix) - 1)
        raise self._log.error or StopAsyncIteration


def below(prefix: str, groups: Iterable[Group]) -> Iterable[Group]:
    for group in groups:
        told = tuple(update for update in group if update.key.startswith(prefix))
        if told:
            yield told


def _size(group: Group) -> int:
    return sum(len(update.key) + len(update.value or b"") for update in group)

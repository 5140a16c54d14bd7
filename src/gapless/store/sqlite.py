"""The embedded store: one SQLite file, one owner, one writer thread, many writes in each commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gapless.core.errors import StoreClosed
from gapless.core.ports import Update, World
from gapless.store._database import Database
from gapless.store._engine import RETENTION, Engine, Retention
from gapless.store._keys import Commit, Keys
from gapless.store._watch import Group, Log

LOG_REVISIONS = 1_024
LOG_BYTES = 8 << 20
"""The recent past that stays in memory beside the file: enough that a watch which keeps up never reads the disk."""

T = TypeVar("T")


class SqliteStore(Engine):
    """`core.ports.Store` in a file. Call `open` first."""

    def __init__(self, path: Path, world: World, retention: Retention = RETENTION) -> None:
        self._file = _File(Database(Path(path), retention))
        log = Log(self._file, min(LOG_REVISIONS, retention.revisions), LOG_BYTES)
        super().__init__(world, self._file, log)

    async def open(self) -> None:
        """Raises StoreLocked (naming the holder's pid), StoreBroken, StoreFull; then nothing stays open, and it may be
        tried again. A closed store stays closed: construct another."""
        if self._open or self._closing:
            raise StoreClosed("a store is opened once", "Construct another one.")
        self._begin(await self._file.open())


class _File:
    """The database, spoken to through its one thread, so that the loop never waits for the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> Keys:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gapless-store")
        try:
            return await self._run(self._database.open)
        except BaseException:
            await self.close()
            raise

    async def commit(self, commits: Sequence[Commit]) -> None:
        await self._run(self._database.commit, commits)

    async def read(self, prefix: str, after: int, until: int, limit: int) -> list[Group]:
        return await self._run(self._database.read, prefix, after, until, limit)

    async def history(self, key: str, until: int, limit: int) -> list[Update]:
        return await self._run(self._database.history, key, until, limit)

    async def close(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._database.close)
        finally:
            thread.shutdown(wait=False)

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        assert self._thread is not None, "call open() first"
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

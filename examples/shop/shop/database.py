"""One SQLite file of one service, shared by its instances: short transactions in a thread of their own.

WAL with `synchronous=NORMAL`: what is committed survives the kill -9 of any process. A power cut may take the last
moments with it; where that matters, and the disk is fast enough, use FULL.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

BUSY_S = 5.0
"""How long a transaction waits for another instance's; they take a millisecond."""


class Database:
    """One connection. `write` and `read` take a function of it, which must not await."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    async def write(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """All of it or nothing. Whoever writes holds the file from the first statement on, so what `act` reads is
        still true when it writes."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, act)

    async def read(self, act: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act, self._connection)

    def _write(self, act: Callable[[sqlite3.Connection], T]) -> T:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = act(self._connection)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return result


def path_of(name: str) -> Path:
    """The file of a service's database: `$SHOP_DATA/<name>.db`."""
    return Path(os.environ.get("SHOP_DATA", "data")) / f"{name}.db"


@asynccontextmanager
async def opened(path: Path, schema: Sequence[str]) -> AsyncIterator[Database]:
    """The database, with its tables made if need be."""
    thread = ThreadPoolExecutor(1, thread_name_prefix=path.name)
    loop = asyncio.get_running_loop()
    try:
        connection = await loop.run_in_executor(thread, _connect, path, schema)
        try:
            yield Database(connection, thread)
        finally:
            await loop.run_in_executor(thread, connection.close)
    finally:
        thread.shutdown()


def _connect(path: Path, schema: Sequence[str]) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    connection.row_factory = sqlite3.Row
    _to_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in schema:
        connection.execute(statement)
    connection.execute("COMMIT")
    return connection


def _to_wal(connection: sqlite3.Connection) -> None:
    """Changing the journal mode does not wait for others by itself, and instances start together."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)

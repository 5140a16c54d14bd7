"""A SQLite store in a directory of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gapless.core.ports import World
from gapless.store._engine import RETENTION, Retention
from gapless.store.sqlite import SqliteStore
from gapless.testing import FakeWorld

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Memory instead of a disk: the unit tests ask what the store does, not what the disk does."""


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="g-", dir=FAST) as path:
        yield Path(path)


@contextmanager
def sqlite_store(world: World, retention: Retention = RETENTION) -> Iterator[SqliteStore]:
    with directory() as path:
        store = SqliteStore(path / "store.db", world, retention)
        if isinstance(world, FakeWorld):
            world.wait_for(_calls(store))
        yield store


def _calls(store: SqliteStore) -> Callable[[], bool]:
    """Whether its thread is at work. On a busy machine it needs milliseconds, in which a FakeWorld could pass years."""
    run, under_way = store._file._run, [0]

    async def counted(*call: Any) -> Any:
        under_way[0] += 1
        try:
            return await run(*call)
        finally:
            under_way[0] -= 1

    store._file._run = counted  # type: ignore[method-assign]
    return lambda: bool(under_way[0])

"""A SQLite store in a directory of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gapless.core.ports import World
from gapless.store._engine import RETENTION, Retention
from gapless.store.sqlite import SqliteStore

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Memory instead of a disk: the unit tests ask what the store does, not what the disk does."""


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="g-", dir=FAST) as path:
        yield Path(path)


@contextmanager
def sqlite_store(world: World, retention: Retention = RETENTION) -> Iterator[SqliteStore]:
    with directory() as path:
        yield SqliteStore(path / "store.db", world, retention)

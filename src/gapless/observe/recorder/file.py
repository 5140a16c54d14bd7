"""Blocks on disk: one SQLite file that cannot grow beyond its bound. To be used by one thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FINE, COARSE = 0, 1
PAGE_BYTES = 4096
SCHEMA = """
CREATE TABLE IF NOT EXISTS block (
  metric TEXT NOT NULL, tier INTEGER NOT NULL, from_at REAL NOT NULL, until_at REAL NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (metric, tier, from_at)
)
"""


@dataclass(frozen=True, slots=True)
class Block:
    """The points of a metric in [from_at, until_at]."""

    metric: str
    tier: int
    from_at: float
    until_at: float
    data: bytes


class BlockFile:
    """Every method raises sqlite3.Error."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last minute, not the file
            connection.execute(f"PRAGMA max_page_count = {self._most_bytes // PAGE_BYTES}")
            connection.execute("PRAGMA journal_size_limit = 4194304")
            connection.execute(SCHEMA)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def put_aside(self) -> Path:
        """A file that cannot be read is kept under another name; then `open` begins anew."""
        aside = self._path.with_suffix(".broken")
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        return aside

    def write(self, blocks: Iterable[Block]) -> None:
        """All of them or none; a block of the same metric, tier and beginning is replaced. Where there is no more room
        in the file, the oldest blocks give it."""
        rows = [(b.metric, b.tier, b.from_at, b.until_at, b.data) for b in blocks]
        for attempt in range(3):
            try:
                self._transact("INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?)", rows)
                return
            except sqlite3.OperationalError as error:
                if attempt == 2 or not self._is_full(error):
                    raise
                self._drop_oldest()

    def _is_full(self, error: sqlite3.OperationalError) -> bool:
        """Our own bound has been reached, not the disk's."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        return "full" in str(error) and pages >= self._most_bytes // PAGE_BYTES * 0.95

    def _drop_oldest(self) -> None:
        (oldest, newest) = self._db.execute("SELECT min(from_at), max(until_at) FROM block").fetchone()
        if oldest is not None:
            self._db.execute("DELETE FROM block WHERE from_at <= ?", (oldest + (newest - oldest) / 10,))

    def read(self, metric: str, tier: int, since_at: float, until_at: float) -> list[bytes]:
        """In order of time."""
        asked = (
            "SELECT data FROM block WHERE metric = ? AND tier = ? AND until_at >= ? AND from_at <= ? ORDER BY from_at"
        )
        return [data for (data,) in self._db.execute(asked, (metric, tier, since_at, until_at))]

    def names(self) -> list[str]:
        return [name for (name,) in self._db.execute("SELECT DISTINCT metric FROM block")]

    def ends(self, tier: int) -> tuple[float, float]:
        """The beginning of the first block and the end of the last; (0, 0) without one."""
        asked = "SELECT coalesce(min(from_at), 0), coalesce(max(until_at), 0) FROM block WHERE tier = ?"
        (first, last) = self._db.execute(asked, (tier,)).fetchone()
        return first, last

    def expire(self, tier: int, before_at: float) -> None:
        self._db.execute("DELETE FROM block WHERE tier = ? AND until_at < ?", (tier, before_at))

    def cut(self, at: float) -> None:
        """Forget the blocks that reach beyond a moment: the clock was set back."""
        self._db.execute("DELETE FROM block WHERE until_at >= ?", (at,))

    def bytes(self) -> int:
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        return int(pages) * PAGE_BYTES

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transact(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("the record of metrics is not open")
        return self._connection

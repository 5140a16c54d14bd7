"""The SQLite file of the store: its tables, what is written when, and SQLite's errors in our words.

Everything here blocks, and runs in the store's one thread.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from gapless.core.errors import Compacted, GaplessError, StoreBroken, StoreFull, StoreLocked
from gapless.core.ports import Entry, Update
from gapless.store._engine import Retention
from gapless.store._keys import Commit, Keys
from gapless.store._lock import FileLock
from gapless.store._watch import Group

SCHEMA = 1
"""Raised when the tables change in a way that older versions cannot read; kept in SQLite's `user_version`."""
MARK = 0x47415053
"""SQLite's `application_id` of our files ("GAPS"): a database of somebody else is never taken for ours."""
WAL_BYTES = 16 << 20
"""What the write-ahead log is cut back to after a burst. SQLite checkpoints it every 1,000 pages (4 MiB) by itself."""
BUSY_S = 5.0
"""How long a foreign program (the sqlite3 shell) may hold the file before a write is given up."""

_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE entries (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, created INTEGER NOT NULL, lease TEXT NOT NULL
);
CREATE TABLE history (
    revision INTEGER, position INTEGER, key TEXT NOT NULL, value BLOB, PRIMARY KEY (revision, position)
) WITHOUT ROWID;
CREATE INDEX history_of_key ON history (key, revision);
CREATE TABLE leases (lease TEXT PRIMARY KEY, ttl_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO numbers VALUES ('revision', 0), ('floor', 0);
PRAGMA application_id = %d;
PRAGMA user_version = %d;
COMMIT;
"""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FULL_IO = frozenset({
    sqlite3.SQLITE_IOERR_WRITE,  # a quota or a limit on file sizes: SQLite calls only ENOSPC "full"
    sqlite3.SQLITE_IOERR_SHMSIZE,  # no room for the index of the write-ahead log
    sqlite3.SQLITE_IOERR_FSYNC,  # no room found out late (network and copy-on-write file systems)
    sqlite3.SQLITE_IOERR_TRUNCATE,
})  # fmt: skip


class Database:
    """The open file. Constructed closed; every method may raise StoreFull, StoreBroken or StoreLocked."""

    def __init__(self, path: Path, retention: Retention) -> None:
        self._path, self._retention = path, retention
        self._lock = FileLock(path)
        self._floor = 0
        self._connection: sqlite3.Connection | None = None

    def open(self) -> Keys:
        """Take the file for ourselves, make or check its tables, and read the current keys."""
        with self._translated():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.take()
            try:
                # Values may hold settings that are nobody else's business; SQLite gives its other files this mode too.
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self._connection = sqlite3.connect(
                    self._path, timeout=BUSY_S, isolation_level=None, cached_statements=64
                )
                self._prepare(self._connection)
                return self._load()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Closing the last connection also folds the write-ahead log into the file."""
        try:
            if self._connection:
                with self._translated():
                    self._connection.close()
        finally:
            self._connection = None
            self._lock.release()

    def commit(self, commits: Sequence[Commit]) -> None:
        """All of it in one transaction, on the disk when this returns."""
        with self._translated(), self._transaction() as connection:
            _write_entries(connection, commits)
            _write_history(connection, commits)
            _write_leases(connection, commits)
            floor = self._compact(connection, commits[-1].revision)
        self._floor = floor

    def read(self, prefix: str, after: int, until: int, limit: int) -> list[Group]:
        """See `_watch.Past`."""
        if after < self._floor:
            raise Compacted(
                f"revision {after} is too long ago to watch {prefix!r} from: kept is what came after {self._floor}"
            )
        with self._translated():
            rows = self._open.execute(_READ, (after, until, prefix, prefix, limit, prefix, prefix)).fetchall()
        updates = (Update(revision=revision, key=key, value=value) for revision, key, value in rows)
        return [tuple(group) for _, group in groupby(updates, lambda update: update.revision)]

    def history(self, key: str, until: int, limit: int) -> list[Update]:
        """The writes of a key up to a revision, newest first."""
        with self._translated():
            rows = self._open.execute(_HISTORY, (key, until, limit)).fetchall()
        return [Update(key=key, value=value, revision=revision) for revision, value in rows]

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        _check_owner(self._path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if not _number(connection, "PRAGMA user_version"):
            connection.executescript(_TABLES % (MARK, SCHEMA))
        _check_integrity(self._path, connection)

    def _load(self) -> Keys:
        numbers = dict(self._open.execute("SELECT name, value FROM numbers").fetchall())
        self._floor = numbers["floor"]
        rows = self._open.execute("SELECT key, value, revision, created, lease FROM entries")
        entries = (Entry(key=k, value=v, revision=r, created=c, lease=lease) for k, v, r, c, lease in rows)
        leases = dict(self._open.execute("SELECT lease, ttl_s FROM leases").fetchall())
        return Keys(entries, leases, numbers["revision"])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._open
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after some errors, and not after others.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _compact(self, connection: sqlite3.Connection, revision: int) -> int:
        """Forget what need not be kept, now and then; returns the floor: everything above it is kept whole."""
        keep = self._retention
        floor = revision - keep.revisions
        if floor < self._floor + max(keep.revisions // 10, 1):
            return self._floor
        touched = connection.execute(_TOUCHED, (self._floor, floor)).fetchall()
        connection.executemany(_FORGET, [(key, floor, key, keep.per_key) for (key,) in touched])
        excess = _number(connection, "SELECT count(*) FROM history") - keep.rows
        if excess > 0:
            last = _number(connection, "SELECT revision FROM history ORDER BY revision LIMIT 1 OFFSET ?", excess - 1)
            connection.execute("DELETE FROM history WHERE revision <= ?", (last,))
            floor = max(floor, last)
        connection.execute("UPDATE numbers SET value = ? WHERE name = 'floor'", (floor,))
        return floor

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's and the system's errors, once, in our words."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _translate(self._path, error) from error


# Not REPLACE, which moves the row to the end of the table and so writes twice as many pages.
_WRITE = """
INSERT INTO entries VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
value = excluded.value, revision = excluded.revision, created = excluded.created, lease = excluded.lease
"""
_READ = """
SELECT revision, key, value FROM history
WHERE revision IN (
    SELECT DISTINCT revision FROM history
    WHERE revision > ? AND revision <= ? AND substr(key, 1, length(?)) = ? ORDER BY revision LIMIT ?
) AND substr(key, 1, length(?)) = ? ORDER BY revision, position
"""
_HISTORY = "SELECT revision, value FROM history WHERE key = ? AND revision <= ? ORDER BY revision DESC LIMIT ?"
_TOUCHED = "SELECT DISTINCT key FROM history WHERE revision > ? AND revision <= ?"
_FORGET = """
DELETE FROM history WHERE key = ? AND revision <= min(?, coalesce(
    (SELECT revision FROM history WHERE key = ? ORDER BY revision DESC LIMIT 1 OFFSET ?), -1))
"""


def _write_entries(connection: sqlite3.Connection, commits: Sequence[Commit]) -> None:
    # Of a key that several jobs of the batch write, only the last one need go into the table.
    last: dict[str, Entry | None] = {}
    for commit in commits:
        last.update(commit.changes)
    written = [(e.key, e.value, e.revision, e.created, e.lease) for e in last.values() if e]
    connection.executemany(_WRITE, written)
    connection.executemany(
        "DELETE FROM entries WHERE key = ?", [(key,) for key, entry in last.items() if entry is None]
    )
    connection.execute("UPDATE numbers SET value = ? WHERE name = 'revision'", (commits[-1].revision,))


def _write_history(connection: sqlite3.Connection, commits: Sequence[Commit]) -> None:
    rows = (
        (commit.revision, position, key, entry.value if entry else None)
        for commit in commits
        for position, (key, entry) in enumerate(commit.changes.items())
    )
    connection.executemany("INSERT INTO history VALUES (?, ?, ?, ?)", rows)


def _write_leases(connection: sqlite3.Connection, commits: Sequence[Commit]) -> None:
    for commit in commits:
        if commit.granted:
            connection.execute("INSERT INTO leases VALUES (?, ?)", (commit.granted.lease, commit.granted.ttl_s))
        if commit.ended:
            connection.execute("DELETE FROM leases WHERE lease = ?", (commit.ended,))


def _check_owner(path: Path, connection: sqlite3.Connection) -> None:
    """Raises StoreBroken for a file that is not ours, or is one of a later version's."""
    schema = _number(connection, "PRAGMA user_version")
    empty = not _number(connection, "SELECT count(*) FROM sqlite_master")
    if _number(connection, "PRAGMA application_id") != MARK and not (empty and not schema):
        raise StoreBroken(f"{path} is a database, but not one of Gapless", "Name another file for the store.")
    if schema > SCHEMA:
        raise StoreBroken(
            f"{path} was written by a newer Gapless (schema {schema}; this one knows {SCHEMA})",
            "Upgrade Gapless, or restore the copy from before the upgrade.",
        )


def _check_integrity(path: Path, connection: sqlite3.Connection) -> None:
    (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise StoreBroken(f"{path} is damaged: {finding}")


def _number(connection: sqlite3.Connection, query: str, *parameters: int) -> int:
    (number,) = connection.execute(query, parameters).fetchone()
    return int(number)


def _translate(path: Path, error: sqlite3.Error | OSError) -> GaplessError:
    if isinstance(error, OSError):
        return StoreFull(f"no space for {path}: {error}") if error.errno in _FULL else _unusable(path, error)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code in _FULL_IO or code & 0xFF == sqlite3.SQLITE_FULL:
        return StoreFull(
            f"no space for {path}: {error} ({getattr(error, 'sqlite_errorname', '')}); nothing was written"
        )
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(
            f"{path} is locked by another program", "Close the program that has the file open (sqlite3?)."
        )
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreBroken(f"{path} is damaged: {error}")
    return _unusable(path, error)


def _unusable(path: Path, error: Exception) -> StoreBroken:
    return StoreBroken(
        f"{path} cannot be used: {error}", "Check that the directory exists and that this user may write there."
    )

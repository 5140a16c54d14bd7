"""Who may do the work of an idempotency key, and what came of it: claims in an SQLite file that processes share.

A claim is taken, or taken over from an owner whose lease has lapsed, in one statement. Its epoch guards all that
follows: an owner that was stalled beyond its lease can no longer complete. Leases are measured on the machine's
monotonic clock, which its processes share and nobody can set; a claim from before a reboot has lapsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from gapless.core.errors import LeaseLost, StoreBroken
from gapless.core.ports import World

R = TypeVar("R")

KEEP_S = 24 * 3600.0
"""How long results are kept: clients retry for minutes; a day covers queues that were down over night."""
SWEEP_EVERY = 1000
"""Claims between two looks for expired results."""
BUSY_S = 5.0
BOOT_ID = "/proc/sys/kernel/random/boot_id"

SCHEMA = """
CREATE TABLE IF NOT EXISTS gapless_idempotency (
  scope TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL,
  owner TEXT NOT NULL, epoch INTEGER NOT NULL, until REAL NOT NULL, boot TEXT NOT NULL, at REAL NOT NULL,
  status INTEGER, headers TEXT, body BLOB,
  PRIMARY KEY (scope, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS gapless_idempotency_at ON gapless_idempotency (at);
"""
CLAIM = """
INSERT INTO gapless_idempotency (scope, key, fingerprint, owner, epoch, until, boot, at)
VALUES (:scope, :key, :fingerprint, :owner, 1, :until, :boot, :at)
ON CONFLICT (scope, key) DO UPDATE
SET owner = excluded.owner, epoch = epoch + 1, until = excluded.until, boot = excluded.boot
WHERE status IS NULL AND fingerprint = excluded.fingerprint AND (until <= :now OR boot <> excluded.boot)
RETURNING epoch
"""
LOOK = "SELECT fingerprint, until, status, headers, body FROM gapless_idempotency WHERE scope = ? AND key = ?"
MINE = "scope = :scope AND key = :key AND owner = :owner AND epoch = :epoch AND status IS"
COMPLETE = f"UPDATE gapless_idempotency SET status = :status, headers = :headers, body = :body WHERE {MINE} NULL"  # noqa: S608
COMPLETED = f"SELECT 1 FROM gapless_idempotency WHERE {MINE} NOT NULL"  # noqa: S608 - these are made of constants only
RENEW = f"UPDATE gapless_idempotency SET until = :until WHERE {MINE} NULL"  # noqa: S608
RELEASE = f"DELETE FROM gapless_idempotency WHERE {MINE} NULL"  # noqa: S608
SWEEP = "DELETE FROM gapless_idempotency WHERE at < :cut AND (status IS NOT NULL OR until <= :now OR boot <> :boot)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to do the work, as long as nobody has taken it over."""

    scope: str
    key: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class New:
    """Nobody has begun: do it."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class TakenOver:
    """Somebody began and did not come back: do it, knowing that some of it may have happened."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class InFlight:
    """Somebody is doing it; its lease lapses in `left_s` unless renewed."""

    left_s: float


@dataclass(frozen=True, slots=True)
class Done:
    response: StoredResponse


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was used for another request."""


Verdict = New | TakenOver | InFlight | Done | Mismatch


def complete_in(connection: sqlite3.Connection, claim: Claim, response: StoredResponse) -> None:
    """Complete within the caller's own transaction, which must be on the claims' file: result and effect are committed
    together or not at all. Raises LeaseLost when another has taken over; roll back then."""
    values = {**_mine(claim), "status": response.status, "headers": json.dumps(response.headers), "body": response.body}
    if connection.execute(COMPLETE, values).rowcount:
        return
    if connection.execute(COMPLETED, _mine(claim)).fetchone() is None:
        raise LeaseLost(
            f"the work of idempotency key {claim.key!r} was taken over by another instance",
            "Roll back; the other answers.",
        )


class Claims:
    """The claims in one file. Opened on first use; `aclose` (or `async with`) closes it.

    Committed results survive the death of any process; with `durable` also the loss of power, at the price of a disk
    flush for each.
    """

    def __init__(
        self, path: str | os.PathLike[str], world: World, *, durable: bool = False, keep_s: float = KEEP_S
    ) -> None:
        self._path = os.fspath(path)
        self._world = world
        self._durable = durable
        self._keep_s = keep_s
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._boot = ""
        self._claims = 0

    async def __aenter__(self) -> Claims:
        await self._do(lambda connection: None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file; the next use opens it again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    async def claim(self, scope: str, key: str, fingerprint: bytes, owner: str, lease_s: float) -> Verdict:
        """Take the key, or learn why not. `fingerprint` is that of the request's payload. Raises sqlite3.Error when the
        file cannot be used; nothing is claimed then."""
        return await self._do(lambda connection: self._claim(connection, scope, key, fingerprint, owner, lease_s))

    async def renew(self, claim: Claim, lease_s: float) -> None:
        """Raises LeaseLost when it was taken over."""
        until = self._world.now() + lease_s
        if not await self._do(lambda c: c.execute(RENEW, {**_mine(claim), "until": until}).rowcount):
            raise LeaseLost(f"the work of idempotency key {claim.key!r} was taken over")

    async def complete(self, claim: Claim, response: StoredResponse) -> None:
        """Keep the result; one that `complete_in` has kept already stays. Raises LeaseLost when it was taken over."""
        await self._do(lambda connection: complete_in(connection, claim, response))

    async def release(self, claim: Claim) -> None:
        """Nothing happened: the key is free again. No error when it is no longer ours."""
        await self._do(lambda connection: connection.execute(RELEASE, _mine(claim)))

    async def abandon(self, claim: Claim) -> None:
        """Nobody knows what happened: the next one takes over at once. No error when it is no longer ours."""
        await self._do(lambda connection: connection.execute(RENEW, {**_mine(claim), "until": 0.0}))

    def _claim(
        self, connection: sqlite3.Connection, scope: str, key: str, fingerprint: bytes, owner: str, lease_s: float
    ) -> Verdict:
        now = self._world.now()
        values: dict[str, Any] = {
            "scope": scope,
            "key": key,
            "fingerprint": fingerprint,
            "owner": owner,
            "boot": self._boot,
        }
        values |= {"now": now, "until": now + lease_s, "at": self._world.time()}
        self._sweep(connection)
        while True:
            if taken := connection.execute(CLAIM, values).fetchall():
                claim = Claim(scope=scope, key=key, owner=owner, epoch=taken[0][0])
                return New(claim) if claim.epoch == 1 else TakenOver(claim)
            if row := connection.execute(LOOK, (scope, key)).fetchone():
                return _verdict(row, fingerprint, now)
            # it was released between the two statements: it is free now

    def _sweep(self, connection: sqlite3.Connection) -> None:
        if self._claims % SWEEP_EVERY == 0:
            cut = self._world.time() - self._keep_s
            connection.execute(SWEEP, {"cut": cut, "now": self._world.now(), "boot": self._boot})
        self._claims += 1

    async def _do(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run in the one thread that owns the connection. A cancelled caller does not undo what the thread does."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="gapless-claims")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], R]) -> R:
        if self._connection is None:
            self._connection = self._open()
        return work(self._connection)

    def _open(self) -> sqlite3.Connection:
        with open(BOOT_ID) as file:
            self._boot = file.read().strip()
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
            connection.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise StoreBroken(f"{self._path} is not an SQLite database: {error}") from error
        return connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.closing(connection):
                pass


def _mine(claim: Claim) -> dict[str, Any]:
    return {"scope": claim.scope, "key": claim.key, "owner": claim.owner, "epoch": claim.epoch}


def _verdict(row: tuple[bytes, float, int | None, str, bytes], fingerprint: bytes, now: float) -> Verdict:
    used_for, until, status, headers, body = row
    if used_for != fingerprint:
        return Mismatch()
    if status is None:
        return InFlight(max(until - now, 0.0))
    pairs = tuple((name, value) for name, value in json.loads(headers))
    return Done(StoredResponse(status=status, headers=pairs, body=body))

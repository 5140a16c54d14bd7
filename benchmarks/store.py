"""Durable puts per second of the SQLite store, against plain SQLite with a commit for each put, in the same run.

    python benchmarks/store.py [--rounds 7] [--puts 2000] [--dir .]

Both write the same rows with WAL and synchronous=FULL into the same directory, turn by turn, so that whatever else the
machine does hits both. The ratios matter; the absolute numbers are those of the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gapless.core.ports import Check, Op, Put
from gapless.core.world import RealWorld
from gapless.store.sqlite import SqliteStore

VALUE = b"x" * 500
"""About the size of an encoded instance."""
CONCURRENT = 64
CALLERS = 32


def naive(path: Path, puts: int) -> float:
    """A commit for each put, nothing else: no history, no watches, no threads."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB, revision INTEGER)")
    begin = time.perf_counter()
    for number in range(puts):
        connection.execute("REPLACE INTO entries VALUES (?, ?, ?)", (f"instances/{number % 1000}", VALUE, number))
    took_s = time.perf_counter() - begin
    connection.close()
    return puts / took_s


def ours(writers: int) -> Callable[[Path, int], float]:
    return lambda path, puts: asyncio.run(write(path, puts, writers))


async def write(path: Path, puts: int, writers: int) -> float:
    store = SqliteStore(path, RealWorld())
    await store.open()

    async def writer(first: int) -> None:
        for number in range(first, puts, writers):
            await store.put(f"instances/{number % 1000}", VALUE)

    begin = time.perf_counter()
    await asyncio.gather(*(writer(first) for first in range(writers)))
    took_s = time.perf_counter() - begin
    await store.close()
    return puts / took_s


def registrations(path: Path, number: int) -> float:
    return asyncio.run(register(path, number))


async def register(path: Path, number: int) -> float:
    """Small transactions as a registry makes them: an instance, its check, half of the time its node, and an
    expectation."""
    store = SqliteStore(path, RealWorld())
    await store.open()

    async def caller(first: int) -> None:
        for one in range(first, number, CALLERS):
            name = one % 5000
            ops: list[Op] = [
                Check(key="catalog/locked", expect=0),
                Put(key=f"catalog/service/web/{name}/a", value=VALUE),
                Put(key=f"catalog/check/{name}/a", value=VALUE),
                Put(key=f"catalog/node/{name}", value=VALUE),
            ]
            await store.transact(*ops[: 3 + one % 2])

    begin = time.perf_counter()
    await asyncio.gather(*(caller(first) for first in range(CALLERS)))
    took_s = time.perf_counter() - begin
    await store.close()
    return number / took_s


def measure(run: Callable[[Path, int], float], puts: int, where: Path) -> float:
    with tempfile.TemporaryDirectory(dir=where, prefix="bench-") as folder:
        return run(Path(folder) / "store.db", puts)


def spread(numbers: list[float], form: str) -> str:
    return " / ".join(format(number, form) for number in (min(numbers), statistics.median(numbers), max(numbers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--puts", type=int, default=2000, help="in each round, for each contender")
    parser.add_argument("--dir", type=Path, default=Path(), help="the disk to measure")
    given = parser.parse_args()
    contenders = {
        "naive, one by one": (naive, given.puts),
        "gapless, one by one": (ours(1), given.puts),
        f"gapless, {CONCURRENT} at a time": (ours(CONCURRENT), given.puts * 4),
        f"gapless, transactions of 3 or 4, {CALLERS} at a time": (registrations, given.puts * 2),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(given.rounds):
        for name, (run, puts) in contenders.items():
            rates[name].append(measure(run, puts, given.dir))
    base = rates["naive, one by one"]
    title = f"durable puts or transactions, min / median / max of {given.rounds}"
    print(f"{title:<60}{'per second':>26}{'times naive':>24}")
    for name, numbers in rates.items():
        ratios = [number / other for number, other in zip(numbers, base, strict=True)]
        print(f"{name:<60}{spread(numbers, ',.0f'):>26}{spread(ratios, '.2f'):>24}")


if __name__ == "__main__":
    main()

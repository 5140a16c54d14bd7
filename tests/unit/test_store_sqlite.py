"""The file: who may open it, what it remembers, how much, and what is said when it cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gapless.core.errors import Compacted, ConfigError, GaplessError, StoreBroken, StoreClosed, StoreLocked
from gapless.core.ports import Put
from gapless.store import open_store
from gapless.store._engine import RETENTION, Retention
from gapless.store.memory import MemoryStore
from gapless.store.sqlite import SqliteStore
from gapless.testing import FakeWorld
from tests.unit.store_kit import directory


@pytest.fixture
def path() -> Iterator[Path]:
    with directory() as folder:
        yield folder / "store.db"


async def opened(path: Path, world: FakeWorld | None = None, retention: Retention = RETENTION) -> SqliteStore:
    store = SqliteStore(path, world or FakeWorld(), retention)
    await store.open()
    return store


async def refused(path: Path, kind: type[GaplessError]) -> GaplessError:
    with pytest.raises(kind) as caught:
        await opened(path)
    return caught.value


async def test_everything_is_there_again(path: Path) -> None:
    world = FakeWorld()
    store = await opened(path, world)
    lease = await store.grant(10)
    await store.transact(Put(key="a", value=b"1"), Put(key="b", value=b"\0", lease=lease))
    await store.put("a", b"2")
    await store.delete("b")
    await store.put("c", b"", lease=lease)
    before = await store.list(""), await store.history("a"), await store.history("b")
    await store.close()
    await world.advance(1000)

    store = await opened(path, world)
    assert (await store.list(""), await store.history("a"), await store.history("b")) == before
    watch = store.watch("", after=0)
    assert [len(await anext(watch)) for _ in range(4)] == [2, 1, 1, 1]
    await world.advance(9)
    await store.renew(lease)
    assert await store.put("a", b"3") == before[0].revision + 1
    await world.advance(11)
    assert [(await anext(watch))[0].value for _ in range(2)] == [b"3", None]
    await store.close()


async def test_a_lease_that_ended_stays_ended(path: Path) -> None:
    store = await opened(path)
    lease = await store.grant(10)
    await store.revoke(lease)
    await store.close()
    store = await opened(path)
    assert store._keys.leases == {}
    await store.close()


async def test_commits_reach_the_disk_before_they_are_acknowledged(path: Path) -> None:
    store = await opened(path)
    connection = store._file._database._connection

    def setting(name: str) -> object:
        assert connection is not None
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert await store._file._run(setting, "journal_mode") == "wal"
    assert await store._file._run(setting, "synchronous") == 2
    await store.close()


async def test_a_second_owner_is_told_who_the_first_is(path: Path) -> None:
    store = await opened(path)
    error = await refused(path, StoreLocked)
    assert f"{path} is held by process {os.getpid()}" in str(error)
    assert "gapless down" in error.remedy
    await store.put("k", b"still works")
    await store.close()
    await (await opened(path)).close()


async def test_closing_leaves_no_thread_no_log_and_no_descriptor(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = await opened(path)
    await store.put("k", b"")
    await store.close()
    with pytest.raises(StoreClosed):
        await store.get("k")
    assert sorted(os.listdir(path.parent)) == ["store.db", "store.db.lock"]
    assert (path.parent / "store.db.lock").read_bytes() == b""
    assert len(os.listdir("/proc/self/fd")) == before
    for thread in threading.enumerate():
        if thread.name.startswith("gapless-store"):
            thread.join(10)
            assert not thread.is_alive()


async def test_a_store_must_be_opened(path: Path) -> None:
    store = SqliteStore(path, FakeWorld())
    with pytest.raises(StoreClosed):
        await store.put("k", b"")
    await store.close()


async def test_a_store_is_opened_once(path: Path) -> None:
    store = await opened(path)
    with pytest.raises(StoreClosed, match="opened once"):
        await store.open()
    await store.put("k", b"")
    await store.close()
    with pytest.raises(StoreClosed, match="opened once"):
        await store.open()


async def test_nobody_else_may_read_the_files(path: Path) -> None:
    store = await opened(path)
    await store.put("k", b"secret")
    assert {name: (path.parent / name).stat().st_mode & 0o77 for name in ("store.db", "store.db-wal")} == {
        "store.db": 0,
        "store.db-wal": 0,
    }
    await store.close()


async def test_other_programs_can_look_inside_meanwhile(path: Path) -> None:
    store = await opened(path)
    await store.put("k", b"v")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT key, value FROM entries").fetchall() == [("k", b"v")]
    reader.close()
    await store.put("k", b"w")
    await store.close()


@pytest.mark.parametrize("damage", ["garbage", "cut", "zeros", "history"])
async def test_a_damaged_file_is_named(path: Path, damage: str) -> None:
    store = await opened(path)
    for number in range(200):
        await store.put(f"k{number}", b"x" * 500)
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as reader:
        (page,) = reader.execute("SELECT rootpage FROM sqlite_master WHERE name = 'history'").fetchone()
    reader.close()
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        content = bytearray(b"this is no database at all " * 1000)
    elif damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "history":  # which no current key shows
        content[(page - 1) * 4096 : page * 4096] = bytes(4096)
    else:
        content[8192:-4096] = bytes(len(content) - 8192 - 4096)
    path.write_bytes(content)
    error = await refused(path, StoreBroken)
    assert str(path) in error.what
    assert "Restore it from a copy" in error.remedy
    await refused(path, StoreBroken)  # and not StoreLocked: nothing stayed open


async def test_a_newer_file_is_left_alone(path: Path) -> None:
    await (await opened(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    error = await refused(path, StoreBroken)
    assert "newer Gapless (schema 2; this one knows 1)" in error.what
    assert "Upgrade Gapless" in error.remedy


async def test_a_database_of_somebody_else_is_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    assert "not one of Gapless" in (await refused(path, StoreBroken)).what
    assert path.read_bytes() == before


async def test_a_directory_is_no_store(path: Path) -> None:
    path.mkdir()
    assert "cannot be used" in (await refused(path, StoreBroken)).what


async def test_an_empty_file_and_a_missing_directory_will_do(path: Path) -> None:
    path.touch()
    await (await opened(path)).close()
    deep = path.parent / "a" / "b" / "store.db"
    await (await opened(deep)).close()
    assert deep.parent.stat().st_mode & 0o77 == 0


async def test_a_late_watch_reads_from_the_file_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapless.store.sqlite.LOG_REVISIONS", 8)
    store = await opened(path)
    watch = store.watch("odd/", after=0)
    for number in range(300):
        await store.transact(
            Put(key=f"{('even', 'odd')[number % 2]}/{number}", value=b"1"), Put(key="odd/all", value=b"2")
        )
    told = [await anext(watch) for _ in range(300)]
    assert [group[0].revision for group in told] == list(range(1, 301))
    assert [len(group) for group in told] == [1, 2] * 150
    assert told[1][0].key == "odd/1"
    watch = store.watch("even/", after=0)
    assert [(await anext(watch))[0].revision for _ in range(150)] == list(range(1, 301, 2))
    await store.close()


async def test_a_watch_hears_all_or_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it begins: in memory, in the file, or in what is forgotten, to the very revision."""
    monkeypatch.setattr("gapless.store.sqlite.LOG_REVISIONS", 4)
    store = await opened(path, retention=Retention(revisions=30, per_key=2, rows=1000))
    for _ in range(97):
        await store.put("k", b"")
    refusals = 0
    for after in range(97):
        watch = store.watch("", after=after)
        try:
            assert [(await anext(watch))[0].revision for _ in range(97 - after)] == list(range(after + 1, 98))
        except Compacted:
            refusals += 1
            assert refusals == after + 1
    assert 97 - 33 <= refusals <= 97 - 30
    await store.close()


async def test_a_failed_commit_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(path)

    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("gapless.store._database._write_leases", broken)
        with pytest.raises(StoreBroken, match=r"store\.db cannot be used: disk I/O error"):
            await store.put("half", b"")
    assert await store.put("whole", b"") == 1
    await store.close()
    store = await opened(path)
    assert [entry.key for entry in (await store.list("")).entries] == ["whole"]
    assert await store.history("half") == []
    await store.close()


async def test_an_old_watch_is_refused_once_the_past_is_gone(path: Path) -> None:
    store = await opened(path, retention=Retention(revisions=20, per_key=3, rows=1000))
    for number in range(100):
        await store.put(f"k{number % 2}", b"")
    with pytest.raises(Compacted) as caught:
        await anext(store.watch("k0", after=50))
    assert "revision 50 is too long ago to watch 'k0' from" in str(caught.value)
    assert [(await anext(store.watch("", after=80)))[0].revision] == [81]
    await store.close()
    store = await opened(path)
    with pytest.raises(Compacted):
        await anext(store.watch("k0", after=50))
    assert [(await anext(store.watch("", after=80)))[0].revision] == [81]
    await store.close()


async def test_a_chatty_key_does_not_push_out_the_history_of_others(path: Path) -> None:
    store = await opened(path, retention=Retention(revisions=10, per_key=5, rows=1000))
    for number in range(7):
        await store.put("quiet", str(number).encode())
    for _ in range(200):
        await store.put("chatty", b"")
    assert [update.value for update in await store.history("quiet")] == [b"6", b"5", b"4", b"3", b"2"]
    assert 10 <= len(await store.history("chatty")) <= 12
    await store.close()


async def test_the_past_is_bounded_altogether(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapless.store.sqlite.LOG_REVISIONS", 4)
    store = await opened(path, retention=Retention(revisions=50, per_key=5, rows=80))
    for number in range(300):
        await store.transact(*(Put(key=f"{number}/{side}", value=b"") for side in range(4)))
    with contextlib.closing(sqlite3.connect(path)) as reader:
        (rows,) = reader.execute("SELECT count(*) FROM history").fetchone()
    reader.close()
    assert 80 <= rows <= 80 + 4 * 5
    assert await store.history("0/0") == []
    assert (await anext(store.watch("", after=285)))[0].revision == 286
    with pytest.raises(Compacted):
        await anext(store.watch("", after=260))
    await store.close()


async def test_the_write_ahead_log_does_not_grow_for_ever(path: Path) -> None:
    store = await opened(path)
    for _ in range(40):
        await asyncio.gather(*(store.put(f"k{number}", os.urandom(8000)) for number in range(64)))
    assert (path.parent / "store.db-wal").stat().st_size < 17 << 20
    await store.close()


async def test_addresses_of_stores(path: Path) -> None:
    memory = await open_store("memory:", FakeWorld())
    assert isinstance(memory, MemoryStore)
    await memory.close()
    for where in (f"sqlite:{path}", str(path), path):
        store = await open_store(where, FakeWorld())
        assert isinstance(store, SqliteStore)
        assert path.exists()
        await store.close()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("consul://127.0.0.1:8500?colour=red", "no address of Consul"),
        ("redis://127.0.0.1", "means nothing"),
        ("", "means nothing"),
        ("sqlite:", "means nothing"),
    ],
)
async def test_addresses_that_lead_nowhere(where: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        await open_store(where, FakeWorld())
    assert caught.value.remedy

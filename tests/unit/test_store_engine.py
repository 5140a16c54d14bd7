"""What happens between the writers and the storage: sharing commits, failing apart, telling nobody too early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from gapless.core.errors import Compacted, Conflict, LeaseLost, StoreClosed, StoreFull
from gapless.core.ports import Delete, Put, Update
from gapless.store._engine import Engine
from gapless.store._keys import Commit, Keys
from gapless.store._leases import Leases
from gapless.store._watch import Group, Log, Watch
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld
from gapless.testing.store import LIMIT_S


class Disk:
    """A storage whose commits the test holds back or fails."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.fail: Callable[[Sequence[str]], Exception | None] = lambda keys: None

    async def commit(self, commits: Sequence[Commit]) -> None:
        keys = [key for commit in commits for key in commit.changes]
        await self.free.wait()
        error = self.fail(keys)
        if error:
            raise error
        self.batches.append(keys)

    async def read(self, prefix: str, after: int, until: int, limit: int) -> list[Group]:
        raise Compacted

    async def history(self, key: str, until: int, limit: int) -> list[Update]:
        return []

    async def close(self) -> None:
        self.batches.append(["closed"])


class Rig:
    def __init__(self) -> None:
        self.world, self.disk = FakeWorld(), Disk()
        self.store = Engine(self.world, self.disk, Log(self.disk, 100))
        self.store._begin(Keys())

    def put(self, key: str, expect: int | None = None) -> asyncio.Future[int]:
        return asyncio.ensure_future(self.store.put(key, b"v", expect=expect))


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_jobs_that_come_during_a_commit_share_the_next(rig: Rig) -> None:
    rig.disk.free.clear()
    first = rig.put("0")
    await rig.world.settle()
    others = [rig.put(str(number)) for number in range(1, 50)]
    await rig.world.settle()
    rig.disk.free.set()
    assert await asyncio.gather(first, *others) == list(range(1, 51))
    assert [len(batch) for batch in rig.disk.batches] == [1, 49]


async def test_nothing_is_seen_before_it_is_durable(rig: Rig) -> None:
    rig.disk.free.clear()
    put, told = rig.put("k"), asyncio.ensure_future(anext(rig.store.watch("", after=0)))
    await rig.world.settle()
    assert not put.done()
    assert not told.done()
    assert await rig.store.get("k") is None
    assert (await rig.store.list("")).revision == 0
    rig.disk.free.set()
    assert await told == (Update(key="k", value=b"v", revision=1),)
    assert (await put, (await rig.store.list("")).revision) == (1, 1)


async def test_one_too_large_does_not_fail_its_neighbours(rig: Rig) -> None:
    rig.disk.fail = lambda keys: StoreFull("too large") if "huge" in keys else None
    puts = [rig.put(key) for key in ("a", "huge", "b")]
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert results[0::2] == [1, 2]
    assert isinstance(results[1], StoreFull)
    assert [entry.key for entry in (await rig.store.list("")).entries] == ["a", "b"]


async def test_what_was_decided_upon_a_failed_write_is_decided_again(rig: Rig) -> None:
    """The second put conflicts only with the first, which the disk then refuses: the second must succeed."""
    refusals = [StoreFull("no space"), StoreFull("no space")]
    rig.disk.fail = lambda keys: refusals.pop() if refusals else None
    first, second = rig.put("k", expect=0), rig.put("k", expect=0)
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(results[0], StoreFull)
    assert results[1] == 1


async def test_a_batch_sees_what_its_earlier_jobs_did_to_leases(rig: Rig) -> None:
    """All in one commit: keys that leave the lease, or are hung on it, just before it is revoked."""
    lease = await rig.store.grant(10)
    for key in ("freed", "deleted", "kept"):
        await rig.store.put(key, b"1", lease=lease)
    rig.disk.free.clear()
    first = rig.put("first")
    await rig.world.settle()
    jobs = [
        *(rig.store.put("freed", b"2"), rig.store.delete("deleted"), rig.store.put("new", b"1", lease=lease)),
        *(rig.store.revoke(lease), rig.store.put("late", b"1", lease=lease), rig.store.put("kept", b"3", expect=0)),
    ]
    waiting = [asyncio.ensure_future(job) for job in jobs]
    await rig.world.settle()
    rig.disk.free.set()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert results[:5] == [4, 5, 6, 7, None]
    assert isinstance(results[5], LeaseLost)
    assert results[6] == 9
    assert rig.disk.batches[-1] == ["freed", "deleted", "new", "kept", "new", "kept"]
    assert [entry.key for entry in (await rig.store.list("")).entries] == ["first", "freed", "kept"]
    assert rig.store._keys.leased == {}


async def test_a_full_disk_changes_nothing_and_is_left_behind(rig: Rig) -> None:
    await rig.put("k")
    rig.disk.fail = lambda keys: StoreFull("no space")
    for _ in range(3):
        with pytest.raises(StoreFull):
            await rig.store.transact(Delete(key="k"), Put(key="l", value=b""))
    assert (await rig.store.list("")).revision == 1
    rig.disk.fail = lambda keys: None
    assert await rig.put("l") == 2


async def test_the_unforeseen_reaches_everyone_and_the_writer_goes_on(rig: Rig) -> None:
    rig.disk.fail = lambda keys: ZeroDivisionError()
    results = await asyncio.gather(rig.put("a"), rig.put("b"), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 2
    rig.disk.fail = lambda keys: None
    assert await rig.put("c") == 1


async def test_who_gives_up_in_time_writes_nothing(rig: Rig) -> None:
    rig.disk.free.clear()
    first = rig.put("first")
    await rig.world.settle()
    given_up, other = rig.put("given up"), rig.put("other")
    await rig.world.settle()
    given_up.cancel()
    first.cancel()  # too late: it is on its way to the disk
    await rig.world.settle()
    rig.disk.free.set()
    assert await other == 2
    assert rig.disk.batches == [["first"], ["other"]]


async def test_close_finishes_what_was_accepted(rig: Rig) -> None:
    rig.disk.free.clear()
    put = rig.put("k")
    await rig.world.settle()
    closing = [asyncio.ensure_future(rig.store.close()) for _ in range(2)]
    await rig.world.settle()
    with pytest.raises(StoreClosed):
        await rig.store.put("late", b"")
    rig.disk.free.set()
    assert await put == 1
    await asyncio.gather(*closing)
    assert rig.disk.batches == [["k"], ["closed"]]


async def test_a_cancelled_close_closes_all_the_same(rig: Rig) -> None:
    rig.disk.free.clear()
    put = rig.put("k")
    await rig.world.settle()
    closing = asyncio.ensure_future(rig.store.close())
    await rig.world.settle()
    closing.cancel()
    rig.disk.free.set()
    await put
    await rig.store.close()
    assert rig.disk.batches[-1] == ["closed"]


async def test_nobody_waits_for_a_writer_that_was_torn_down(rig: Rig) -> None:
    rig.disk.free.clear()
    first = rig.put("first")
    await rig.world.settle()
    second = rig.put("second")
    await rig.world.settle()
    assert rig.store._writer is not None
    rig.store._writer.cancel()
    await asyncio.wait({first, second}, timeout=LIMIT_S)
    assert (first.cancelled(), second.cancelled()) == (True, True)
    with pytest.raises(StoreClosed):
        await rig.store.get("first")
    await rig.store.close()


async def test_a_lapsed_lease_waits_for_space(rig: Rig) -> None:
    lease = await rig.store.grant(5)
    await rig.store.put("k", b"", lease=lease)
    rig.disk.fail = lambda keys: StoreFull("no space")
    await rig.world.advance(6)
    assert await rig.store.get("k")
    with pytest.raises(LeaseLost):
        await rig.store.renew(lease)
    rig.disk.fail = lambda keys: None
    await rig.world.advance(1)
    assert await rig.store.get("k") is None


async def test_a_closed_store_lets_no_lease_lapse(rig: Rig) -> None:
    lease = await rig.store.grant(5)
    await rig.store.put("k", b"", lease=lease)
    await rig.store.close()
    await rig.world.advance(100)
    assert rig.disk.batches == [[], ["k"], ["closed"]]
    assert rig.world.pending == 0


async def test_leases_begin_anew_when_the_process_stood_still() -> None:
    world, lapsed = FakeWorld(), []
    leases = Leases(world, lapsed.append)
    leases.add("a", 10)
    leases.add("b", 20)
    await world.advance(9)
    world.stall(100)
    await world.advance(0.5)
    leases.renew("a")
    await world.advance(9)
    assert lapsed == []
    await world.advance(1.5)
    assert lapsed == ["a"]
    await world.advance(10)
    assert lapsed == ["a", "b"]


async def test_ten_thousand_renewals_make_no_timers() -> None:
    world, lapsed = FakeWorld(), []
    leases = Leases(world, lapsed.append)
    for number in range(100):
        leases.add(f"l{number:02d}", 10)
    for _ in range(100):
        await world.advance(1)
        for number in range(0, 100, 2):
            leases.renew(f"l{number:02d}")
    assert lapsed == [f"l{number:02d}" for number in range(1, 100, 2)]
    assert (world.pending, len(leases._rows)) == (1, 50)


async def test_a_slow_watch_holds_little_and_is_told_when_it_is_too_late() -> None:
    store = MemoryStore(FakeWorld())
    watch = store.watch("", after=0)
    for number in range(200):
        await store.put("k", str(number).encode())
    assert [(await anext(watch))[0].revision for _ in range(3)] == [1, 2, 3]
    assert len(watch._groups) <= 64
    store._log._keep = 10
    await store.put("k", b"last")
    with pytest.raises(Compacted):
        [await anext(watch) for _ in range(100)]
    await store.close()


async def test_only_concerned_watches_are_woken() -> None:
    store = MemoryStore(FakeWorld())
    reads: list[str] = []
    read = store._log.read

    async def counted(prefix: str, after: int) -> tuple[list[Group], int]:
        reads.append(prefix)
        return await read(prefix, after)

    store._log.read = counted
    watches = {prefix: asyncio.ensure_future(anext(store.watch(prefix, after=0))) for prefix in ("a/", "a/b", "b/", "")}
    await asyncio.sleep(0)
    await store.put("a/1", b"")
    await watches["a/"]
    assert sorted(reads) == ["", "a/"]
    await store.close()
    await asyncio.gather(*watches.values(), return_exceptions=True)


async def test_a_quiet_watch_is_not_overtaken_by_a_busy_store() -> None:
    """What happens elsewhere while it waits must not push it out of what is kept."""
    store = MemoryStore(FakeWorld())
    store._log._keep = 10
    quiet = asyncio.ensure_future(anext(store.watch("quiet", after=0)))
    await asyncio.sleep(0)
    for _ in range(100):
        await store.put("busy", b"")
    revision = await store.put("quiet", b"1")
    assert await quiet == (Update(key="quiet", value=b"1", revision=revision),)
    await store.close()


async def test_a_watch_from_the_future_waits_for_it() -> None:
    store = MemoryStore(FakeWorld())
    watch = asyncio.ensure_future(anext(store.watch("k", after=2)))
    for _ in range(3):
        await asyncio.sleep(0)
        last = await store.put("k", b"")
    assert [update.revision for update in await watch] == [last] == [3]
    await store.close()


def test_the_log_in_memory_is_bounded_in_bytes() -> None:
    log = Log(Disk(), keep=1000, keep_bytes=1000)
    for revision in range(1, 50):
        log.append((Update(key="k", value=b"x" * 100, revision=revision),))
    assert log.start == 49 - 9
    log.append((Update(key="k", value=b"x" * 5000, revision=50),))
    assert log.start == 49


async def test_an_abandoned_watch_leaves_nothing() -> None:
    log = Log(Disk(), keep=10)
    waiting = asyncio.ensure_future(anext(Watch(log, "k", 0)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert (log._waiting, log._lengths) == ({}, {})


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800"])
async def test_what_is_no_key_is_refused(key: str) -> None:
    store = MemoryStore(FakeWorld())
    for call in (store.put(key, b""), store.delete(key), store.history(key)):
        with pytest.raises(ValueError, match="no key"):
            await call
    await store.close()


async def test_mistakes_are_refused_before_they_are_queued() -> None:
    store = MemoryStore(FakeWorld())
    with pytest.raises(ValueError, match="writes 'k' twice"):
        await store.transact(Put(key="k", value=b"1"), Delete(key="k"))
    with pytest.raises(TypeError, match="is str, not bytes"):
        await store.put("k", "text")
    for ttl_s in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="makes no sense"):
            await store.grant(ttl_s)
    assert (await store.list("")).revision == 0
    await store.close()


async def test_a_conflict_names_the_place() -> None:
    store = MemoryStore(FakeWorld())
    await store.put("k", b"")
    with pytest.raises(Conflict) as caught:
        await store.put("k", b"", expect=7)
    assert str(caught.value) == "'k' is at revision 1, not 7\n  → Read the key again and retry with its new revision."
    await store.close()

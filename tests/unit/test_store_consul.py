"""The store in Consul, on a pretended one: the suite of all stores, lost answers, several processes, leases."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from gapless.core.errors import Compacted, Conflict, LeaseLost, StoreUnreachable
from gapless.core.ports import Put
from gapless.store._consul_leases import STALL_S, Beats, look_every_s, looked
from gapless.store._consul_plan import ROOM
from gapless.store._consul_wire import SLOTS, Lease
from gapless.store.consul import ConsulStore
from gapless.testing import STORE_CHECKS, FakeWorld, StoreRig
from gapless.testing.store import StoreCheck, run_check
from tests.unit.fake_consul import ADDRESS, FakeConsul, FakeServers
from tests.unit.test_store_model import StoreMachine


@asynccontextmanager
async def stores(count: int) -> AsyncIterator[list[ConsulStore]]:
    """As many processes on one Consul."""
    consul = FakeConsul(FakeWorld())
    made = [ConsulStore(ADDRESS, consul.world, FakeServers(consul)) for _ in range(count)]
    try:
        yield made
    finally:
        for store in made:
            await store.close()


def servers(store: ConsulStore) -> FakeServers:
    assert isinstance(store._servers, FakeServers)
    return store._servers


def world(store: ConsulStore) -> FakeWorld:
    assert isinstance(store._world, FakeWorld)
    return store._world


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_passes(check: StoreCheck) -> None:
    async with stores(1) as (store,):
        await run_check(check, StoreRig(store=store, world=world(store)))


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_write_whose_answer_was_lost_is_done_once(lost: int) -> None:
    async with stores(1) as (store,):
        first = await store.put("k", b"1")
        servers(store).lose = [lost]
        second = await store.put("k", b"2", expect=first)
        assert second == first + 1
        assert [update.revision for update in await store.history("k")] == [second, first]


async def test_a_write_of_which_nothing_was_heard_says_so() -> None:
    async with stores(1) as (store,):
        servers(store).lose = [-1]
        with pytest.raises(StoreUnreachable):
            await store.put("k", b"1")
        entry = await store.get("k")
        assert entry is not None


async def test_processes_that_write_at_once_make_one_history() -> None:
    async with stores(3) as several:
        await several[0].put("counter", b"0")
        watch = several[2].watch("", after=0)

        async def increment(store: ConsulStore) -> None:
            while True:
                entry = await store.get("counter")
                assert entry is not None
                try:
                    await store.put("counter", str(int(entry.value) + 1).encode(), expect=entry.revision)
                except Conflict:
                    continue
                return

        writing = asyncio.gather(*(increment(store) for store in several for _ in range(10)))
        while not writing.done():
            await world(several[0]).advance(0.1)
        await writing
        heard = [await anext(watch) for _ in range(31)]
        assert [group[0].revision for group in heard] == list(range(1, 32))
        assert [group[0].value for group in heard] == [str(number).encode() for number in range(31)]


async def test_concurrent_writers_share_transactions() -> None:
    async with stores(1) as (store,):
        await asyncio.gather(*(store.put(f"k{number}", b"1") for number in range(200)))
        assert (await store.list("")).revision == 200
        assert servers(store).consul.writes < 10


async def test_more_than_consul_takes_at_once_is_refused() -> None:
    async with stores(1) as (store,):
        puts = [Put(key=f"k{number}", value=b"1") for number in range(ROOM + 1)]
        with pytest.raises(ValueError, match="63 keys and 0 leases are more than a transaction"):
            await store.transact(*puts)
        assert await store.transact(*puts[1:]) == 1


async def test_a_lease_takes_however_many_keys_with_it() -> None:
    async with stores(2) as (store, other):
        lease = await store.grant(5.0)
        for number in range(150):
            await store.put(f"k{number}", b"1", lease=lease)
        await other.get("x")  # which makes it look after leases
        await store.close()
        await world(other).advance(10.0)
        assert (await other.list("")).entries == ()
        assert (await other.list("")).revision == 153, "three turns"
        with pytest.raises(LeaseLost):
            await other.renew(lease)


async def test_a_lease_lives_while_consul_is_away_and_its_time_begins_anew() -> None:
    async with stores(1) as (store,):
        lease = await store.grant(2.0)
        await store.put("k", b"1", lease=lease)
        await world(store).advance(1.0)
        world(store).stall(60.0)
        await world(store).advance(1.5)
        await store.renew(lease)
        await world(store).advance(4.0)
        with pytest.raises(LeaseLost):
            await store.renew(lease)


async def test_a_watch_from_too_long_ago_is_told_so() -> None:
    async with stores(2) as (store, other):
        for number in range(SLOTS + 1):
            await store.put("k", str(number).encode())
        with pytest.raises(Compacted):
            await anext(other.watch("k", after=0))
        assert (await anext(other.watch("k", after=1)))[0].revision == 2
        assert len(await other.history("k", limit=1000)) == SLOTS


async def test_a_process_that_was_away_for_too_long_is_told_so_and_can_begin_anew() -> None:
    async with stores(2) as (store, other):
        await store.put("k", b"0")
        watch = other.watch("k", after=0)
        await anext(watch)
        consul = servers(other).consul
        quiet, consul.changed = consul.changed, asyncio.Event()
        for number in range(SLOTS + 2):
            await store.put("k", str(number).encode())
        waiting = asyncio.ensure_future(anext(watch))
        quiet.set()
        with pytest.raises(Compacted):
            await waiting
        listing = await other.list("k")
        last = await store.put("k", b"last")
        assert (await anext(other.watch("k", after=listing.revision)))[0].revision == last


@given(st.lists(st.tuples(st.floats(0.05, 8.0), st.booleans()), max_size=30), st.floats(0.5, 5.0))
def test_a_lease_lapses_after_its_time_and_not_before(looks: list[tuple[float, bool]], ttl_s: float) -> None:
    """Between looks it was renewed, or not; it lapses exactly if it was seen unchanged for its time, unless we were
    away."""
    beats: Beats = {}
    now, index, seen_at = 0.0, 1, 0.0
    records = {"x": (index, Lease(ttl_s=ttl_s))}
    beats, lapsed = looked(beats, records, now, 0.0)
    assert not lapsed
    for since, renewed in looks:
        now += since
        index += renewed
        records = {"x": (index, Lease(ttl_s=ttl_s))}
        if renewed or since > look_every_s(records) + STALL_S:
            seen_at = now
        beats, lapsed = looked(beats, records, now, since)
        assert (lapsed == {"x": index}) == (now - seen_at >= ttl_s)


class Turns:
    """One store, seen through two processes in turn."""

    def __init__(self, *several: ConsulStore) -> None:
        self.several = deque(several)

    def __getattr__(self, name: str) -> Any:
        self.several.rotate()
        return getattr(self.several[0], name)

    async def close(self) -> None:
        for store in self.several:
            await store.close()


class ConsulMachine(StoreMachine):
    """Against the model of all stores. Time stands still: leases lapse as `looked` says."""

    durable = True

    def make(self) -> Any:
        if not hasattr(self, "consul"):
            self.consul = FakeConsul(self.world)
        return Turns(*(ConsulStore(ADDRESS, self.world, FakeServers(self.consul)) for _ in range(2)))

    @rule(lost=st.integers(0, 2))
    def advance(self, lost: int) -> None:
        """Instead of time: the next answer is lost so often."""
        for store in self.store.several:
            servers(store).lose[:] = [lost]


TestConsul = ConsulMachine.TestCase
TestConsul.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)

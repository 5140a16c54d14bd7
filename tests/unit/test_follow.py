"""A copy of a part of the store, and those who wait for a topic to move."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import StoreClosed
from gapless.core.ports import Listing, Put, Update
from gapless.discovery.follow import Follower
from gapless.discovery.topics import Topics
from gapless.store._engine import Retention
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld


class Copy:
    def __init__(self, store: MemoryStore, world: FakeWorld) -> None:
        self.values: dict[str, bytes] = {}
        self.resets = 0
        self.follower = Follower(store, "a/", world, reset=self.reset, apply=self.apply)

    def reset(self, listing: Listing) -> None:
        self.resets += 1
        self.values = {entry.key: entry.value for entry in listing.entries}

    def apply(self, group: tuple[Update, ...]) -> None:
        for update in group:
            if update.value is None:
                self.values.pop(update.key, None)
            else:
                self.values[update.key] = update.value


async def test_what_was_written_is_shown_once_reached() -> None:
    store, world = MemoryStore(FakeWorld()), FakeWorld()
    await store.put("a/1", b"old")
    copy = Copy(store, world)
    await copy.follower.start()
    assert copy.values == {"a/1": b"old"}
    await store.put("b/1", b"of no concern")
    revision = await store.transact(Put(key="a/1", value=b"new"), Put(key="a/2", value=b"more"))
    await copy.follower.reached(revision)
    assert copy.values == {"a/1": b"new", "a/2": b"more"}
    await copy.follower.reached(await store.delete("a/1"))
    assert copy.values == {"a/2": b"more"}
    await copy.follower.aclose()


async def test_who_waits_for_a_closed_store_hears_of_it() -> None:
    store = MemoryStore(FakeWorld())
    copy = Copy(store, FakeWorld())
    await copy.follower.start()
    waiting = asyncio.ensure_future(copy.follower.reached(10))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreClosed):
        await waiting
    with pytest.raises(StoreClosed):
        await copy.follower.reached(11)
    await copy.follower.aclose()


async def test_a_copy_that_fell_too_far_behind_is_made_anew() -> None:
    world = FakeWorld()
    store = MemoryStore(world, Retention(revisions=2, per_key=1, rows=2))
    copy = Copy(store, world)
    await copy.follower.start()
    writes = [asyncio.ensure_future(store.put(f"a/{number}", b"1")) for number in range(500)]
    last = max(await asyncio.gather(*writes))
    reached = asyncio.ensure_future(copy.follower.reached(last))
    await world.advance(10)
    await reached
    assert len(copy.values) == 500
    await copy.follower.aclose()


async def test_a_topic_wakes_its_own_waiters_only() -> None:
    topics = Topics()
    topics.move("stock", 3)
    assert await topics.passed("stock", 2) == 3
    mine = asyncio.ensure_future(topics.passed("stock", 3))
    other = asyncio.ensure_future(topics.passed("orders", 0))
    await asyncio.sleep(0)
    assert topics.waiting == 2
    topics.move("stock", 7)
    assert await mine == 7
    assert not other.done()
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert topics.waiting == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 50))))
def test_an_index_never_goes_back(moves: list[tuple[str, int]]) -> None:
    topics = Topics()
    for topic, index in moves:
        before = topics.index(topic)
        topics.move(topic, index)
        assert topics.index(topic) == max(before, index)

"""Caches shared through cashews, on its own memory and on a real Redis; and what cashews itself does, which is why the
protection is ours: a test here that fails after an upgrade means that it has learned it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from cashews import Cache

from gapless.core.world import RealWorld
from gapless.resilience import deadline
from gapless.resilience.cache import cache
from gapless.resilience.cache_bloom import Known, UnknownKey
from gapless.resilience.cache_cashews import CashewsStore
from gapless.resilience.errors import DeadlineExceeded
from gapless.resilience.guard import Guard, guard
from tests.integration.redis_kit import RedisServer
from tests.ports import free_port

WORLD = RealWorld()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["mem", "redis"])
async def store(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[CashewsStore]:
    if not redis.running:
        redis.start()
    store = CashewsStore("mem://" if request.param == "mem" else redis.url, limit=30.0)
    yield store
    await store.close()


class Shop:
    def __init__(self, store: CashewsStore, **options: Any) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.open = asyncio.Event()
        """No call ends while it is not set."""
        self.open.set()
        # A name of its own: all tests share one Redis.
        name = WORLD.token()
        self.guard: Guard = guard("shop", cache(**{"ttl": 60, "key": "{sku}", "store": store, "name": name} | options))
        self.price = self.guard(self._price)
        self.options = {"name": name} | options

    async def _price(self, sku: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(0.05)
        await self.open.wait()
        if self.error:
            raise self.error
        return {"sku": sku, "call": self.calls}

    def count(self, name: str) -> int:
        return int(self.guard.statistics()["policies"]["cache"][name])


async def test_a_stampede_is_one_call(store: CashewsStore) -> None:
    shop = Shop(store)
    answers = await asyncio.gather(*(shop.price("a") for _ in range(1_000)))
    assert shop.calls == 1
    assert all(answer == {"sku": "a", "call": 1} for answer in answers)
    assert store.failures == 0


async def test_two_processes_share_answers(store: CashewsStore) -> None:
    one = Shop(store)
    two = Shop(store, **one.options)
    assert await one.price("a") == await two.price("a")
    assert (one.calls, two.calls) == (1, 0)


async def test_stale_answers_are_refreshed_behind(store: CashewsStore) -> None:
    shop = Shop(store, ttl=0.2, stale=60, spread=0.0)
    await shop.price("a")
    await asyncio.sleep(0.25)
    shop.open.clear()
    assert {(await shop.price("a"))["call"] for _ in range(10)} == {1}
    shop.open.set()
    until = time.monotonic() + 10
    while shop.count("refreshed") == 0 and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert (shop.count("refreshed"), shop.calls) == (1, 2)


async def test_absence_is_shared(store: CashewsStore) -> None:
    shop = Shop(store, negative=60, missing=KeyError)
    shop.error = KeyError("a")
    for _ in range(3):
        with pytest.raises(KeyError):
            await shop.price("a")
    assert (shop.calls, shop.count("negative_hits")) == (1, 2)


async def test_unknown_keys_cost_no_round_trip(store: CashewsStore) -> None:
    known = Known()
    known.fill(["a"])
    shop = Shop(store, known=known)
    with pytest.raises(UnknownKey):
        await shop.price("b")
    assert await shop.price("a") == {"sku": "a", "call": 1}
    assert (shop.count("refused"), shop.count("missed")) == (1, 1)


async def test_an_answer_that_cannot_be_kept_is_given_all_the_same(redis: RedisServer) -> None:
    store = CashewsStore(redis.url, limit=5.0)

    @guard("shop", cache(ttl=60, store=store))
    async def make() -> Any:
        return lambda: 1

    assert (await make())() == 1
    assert store.failures == 1
    await store.close()


async def test_redis_killed_and_back(redis: RedisServer) -> None:
    store = CashewsStore(redis.url, limit=2.0, away=0.2)
    shop = Shop(store)
    await shop.price("a")
    redis.kill()
    begun = time.monotonic()
    answers = await asyncio.gather(*(shop.price("a") for _ in range(100)), *(shop.price("b") for _ in range(100)))
    assert {answer["sku"] for answer in answers} == {"a", "b"}
    assert shop.calls == 2, "this process goes on with what it has seen"
    assert time.monotonic() - begun < 10
    assert store.failures >= 1
    redis.start()
    await asyncio.sleep(0.3)
    await shop.price("c")
    fresh = CashewsStore(redis.url, limit=5.0)
    other = Shop(fresh, **shop.options)
    assert (await other.price("c"))["call"] == shop.calls
    assert other.calls == 0
    await fresh.close()
    await store.close()


async def test_a_redis_that_hangs_delays_one_call_and_not_all(redis: RedisServer) -> None:
    if not redis.running:
        redis.start()
    store = CashewsStore(redis.url, limit=0.3, away=30)
    shop = Shop(store)
    await shop.price("a")
    redis.freeze()
    try:
        await shop.price("b")
        begun = time.monotonic()
        for number in range(20):
            await shop.price(number % 2)
        assert time.monotonic() - begun < 2, "it was asked again although it hangs"
        assert store.failures == 1
    finally:
        redis.thaw()
    await store.close()


async def test_a_short_deadline_does_not_count_as_an_outage(redis: RedisServer) -> None:
    store = CashewsStore(redis.url, limit=5.0)
    shop = Shop(store)
    await shop.price("a")
    redis.freeze()
    token = deadline.current.set(WORLD.now() + 0.05)
    try:
        with pytest.raises(DeadlineExceeded):
            await shop.price("b")
    finally:
        deadline.current.reset(token)
        redis.thaw()
    await shop.price("a")
    assert shop.count("hits") == 1
    other = Shop(store, **shop.options)
    assert await other.price("a") == {"sku": "a", "call": 1}
    await store.close()


# What cashews does by itself (7.6).


@pytest.fixture
async def cashews() -> AsyncIterator[Cache]:
    cache = Cache()
    cache.setup("mem://")
    yield cache
    await cache.close()


async def slowly(*args: Any) -> Any:
    await asyncio.sleep(0.05)
    return args


async def test_cashews_makes_one_call_of_many(cashews: Cache) -> None:
    calls = 0

    @cashews(ttl=10, key="k:{sku}")
    async def price(sku: str) -> Any:
        nonlocal calls
        calls += 1
        return await slowly(sku)

    await asyncio.gather(*(price("a") for _ in range(100)))
    assert calls == 1


async def test_cashews_cancels_all_with_one(cashews: Cache) -> None:
    @cashews(ttl=10, key="k:{sku}")
    async def price(sku: str) -> Any:
        return await slowly(sku)

    tasks = [asyncio.create_task(price("a")) for _ in range(3)]
    await asyncio.sleep(0.01)
    tasks[1].cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 3


async def test_cashews_mixes_up_keys(cashews: Cache) -> None:
    @cashews(ttl=10, key="k:{a}:{b}")
    async def look(a: str, b: str) -> Any:
        return (a, b)

    await look("x:y", "z")
    assert await look("x", "y:z") == ("x:y", "z")


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
async def test_cashews_hides_an_outage(redis: RedisServer) -> None:
    cache = Cache()
    cache.setup(f"redis://127.0.0.1:{free_port('127.0.0.1')}")
    assert await cache.get("k", default="nothing") == "nothing"
    await cache.close()

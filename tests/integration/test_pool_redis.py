"""Our pool beneath redis-py, on a real Redis."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator

import pytest

from gapless.core.world import RealWorld
from gapless.resilience import deadline
from gapless.resilience.errors import PoolTimeout, Transient
from gapless.resilience.pool_errors import ConnectFailed
from gapless.resilience.pool_limits import PoolLimits
from gapless.resilience.pool_redis import RedisClient, RedisPool, redis_client
from tests.integration.redis_kit import RedisServer

WORLD = RealWorld()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def client_of(server: RedisServer, max_size: int = 3, leak_after_s: float = 60.0) -> RedisClient:
    limits = PoolLimits(max_size=max_size, leak_after_s=leak_after_s)
    return redis_client(server.url, name="cache", world=WORLD, limits=limits)


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisClient]:
    if not server.running:
        server.start()
    client = client_of(server)
    yield client
    await client.aclose()
    figures = pool_of(client).statistics()
    assert (figures.size, figures.waiting) == (0, 0)


def pool_of(client: RedisClient) -> RedisPool:
    assert isinstance(client.connection_pool, RedisPool)
    return client.connection_pool


async def test_many_commands_few_connections(redis: RedisClient) -> None:
    await asyncio.gather(*(redis.set(f"k{n}", n) for n in range(100)))
    assert await asyncio.gather(*(redis.get(f"k{n}") for n in range(100))) == [b"%d" % n for n in range(100)]
    async with redis.pipeline() as pipeline:
        pipeline.incr("n")
        pipeline.incr("n")
        assert await pipeline.execute() == [1, 2]
    figures = pool_of(redis).statistics()
    assert figures.created_total <= 3
    assert (figures.in_use, figures.acquired_total) == (0, 201)


async def test_a_cancelled_command_does_not_leave_its_reply_to_the_next(redis: RedisClient) -> None:
    await redis.set("k", "right")
    for _ in range(20):
        task = asyncio.create_task(redis.blpop(["nothing"], timeout=5))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await redis.get("k") == b"right"
    figures = pool_of(redis).statistics()
    assert (figures.in_use, figures.waiting) == (0, 0)
    assert figures.size <= 3


async def test_a_full_pool_says_who_has_it_all_and_obeys_the_deadline(server: RedisServer) -> None:
    redis = client_of(server, max_size=1)

    async def block() -> None:
        await redis.blpop(["nothing"], timeout=1)

    blocked = asyncio.create_task(block())
    async with asyncio.timeout(20):
        while not pool_of(redis).statistics().in_use:
            await asyncio.sleep(0.01)
    token = deadline.current.set(WORLD.now() + 0.2)
    with pytest.raises(PoolTimeout, match=r"1 of 1 are out, .*test_pool_redis\.py"):
        await redis.get("k")
    deadline.current.reset(token)
    await blocked
    await redis.aclose()


async def test_the_server_dies_and_comes_back_and_nobody_is_stuck(server: RedisServer, redis: RedisClient) -> None:
    await asyncio.gather(*(redis.set("k", "v") for _ in range(10)))
    under_way = [asyncio.create_task(redis.blpop(["nothing"], timeout=60)) for _ in range(8)]
    await asyncio.sleep(0.1)
    server.kill()
    errors = await asyncio.wait_for(asyncio.gather(*under_way, return_exceptions=True), 20)
    assert {type(error) for error in errors} <= {Transient, ConnectFailed}
    with pytest.raises(ConnectFailed):
        await redis.get("k")
    server.start()
    assert await asyncio.gather(*(redis.get("k") for _ in range(20))) == [None] * 20


async def test_idle_ones_that_a_restart_killed_are_not_lent(server: RedisServer, redis: RedisClient) -> None:
    await asyncio.gather(*(redis.set("k", "v") for _ in range(10)))
    server.kill()
    server.start()
    await asyncio.sleep(0.05)
    assert await redis.get("k") is None
    assert pool_of(redis).statistics().discarded_total >= 1


async def test_a_subscription_holds_a_connection(server: RedisServer) -> None:
    redis = client_of(server, leak_after_s=math.inf)
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe("news")
        await redis.publish("news", "hello")
        assert pool_of(redis).statistics().in_use == 1
        kinds = [(await pubsub.get_message(timeout=5) or {}).get("type") for _ in range(2)]
        assert kinds == ["subscribe", "message"]
    assert pool_of(redis).statistics().in_use == 0
    await redis.aclose()

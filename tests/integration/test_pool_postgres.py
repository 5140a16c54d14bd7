"""Our pool on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from gapless.core.world import RealWorld
from gapless.resilience import deadline
from gapless.resilience.errors import PoolTimeout, Transient
from gapless.resilience.pool import Pool
from gapless.resilience.pool_asyncpg import postgres_pool
from gapless.resilience.pool_errors import ConnectFailed
from gapless.resilience.pool_limits import PoolLimits
from tests.integration.postgres_kit import Postgres, postgres

LIMITS = PoolLimits(max_size=3, acquire_deadline_s=10.0, connect_s=10.0)
WORLD = RealWorld()
OTHERS = "pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture
async def pool(server: Postgres) -> AsyncIterator[Pool[Any]]:
    if server.process is None:
        server.start()
    async with postgres_pool(server.dsn, name="db", world=WORLD, limits=LIMITS) as pool:
        yield pool


async def ask(pool: Pool[Any], query: str) -> Any:
    async with pool.acquire() as connection:
        return await connection.fetchval(query)


async def backends(pool: Pool[Any], condition: str = "true") -> int:
    return int(await ask(pool, f"select count(*) from {OTHERS} and {condition}"))


async def test_never_more_connections_than_asked_for(pool: Pool[Any]) -> None:
    counts = await asyncio.gather(*(backends(pool) for _ in range(60)))
    assert max(counts) <= 2
    figures = pool.statistics()
    assert figures.created_total <= 3
    assert figures.acquired_total == 60
    assert figures.wait_s_total > 0


async def test_settings_locks_and_transactions_do_not_reach_the_next_borrower(server: Postgres) -> None:
    limits = PoolLimits(max_size=1)
    async with postgres_pool(server.dsn, name="db", world=WORLD, limits=limits) as pool:
        async with pool.acquire() as connection:
            await connection.execute("set search_path = nowhere")
            await connection.execute("select pg_advisory_lock(1)")
            await connection.execute("create temporary table t (n int)")
        async with pool.acquire() as connection:
            assert await connection.fetchval("show search_path") != "nowhere"
            assert await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
        assert pool.statistics().created_total == 1


async def test_a_cancelled_query_ends_on_the_server_and_its_connection_serves_again(pool: Pool[Any]) -> None:
    task = asyncio.create_task(ask(pool, "select pg_sleep(60)"))
    while not await backends(pool, "query like '%pg_sleep(60)%' and state = 'active'"):
        await asyncio.sleep(0.01)
    before = pool.statistics()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(200):
        if not await backends(pool, "query like '%pg_sleep(60)%' and state = 'active'"):
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the query goes on")
    await asyncio.gather(*(ask(pool, "select 1") for _ in range(10)))
    after = pool.statistics()
    assert (after.discarded_total, after.in_use, after.waiting) == (before.discarded_total, 0, 0)


async def test_a_wait_ends_at_the_inherited_deadline(server: Postgres) -> None:
    limits = PoolLimits(max_size=1)
    async with postgres_pool(server.dsn, name="db", world=WORLD, limits=limits) as pool, pool.acquire():
        begun = time.monotonic()
        token = deadline.current.set(WORLD.now() + 0.2)
        with pytest.raises(PoolTimeout, match="test_pool_postgres"):
            await ask(pool, "select 1")
        deadline.current.reset(token)
        assert 0.15 < time.monotonic() - begun < 5


async def test_a_terminated_backend_is_replaced(pool: Pool[Any]) -> None:
    await asyncio.gather(*(ask(pool, "select pg_sleep(0.1)") for _ in range(3)))
    with pytest.raises(Transient) as caught:
        await ask(pool, "select pg_terminate_backend(pg_backend_pid())")
    assert isinstance(caught.value.__cause__, asyncpg.AdminShutdownError | asyncpg.PostgresConnectionError)
    assert await asyncio.gather(*(ask(pool, "select 1") for _ in range(10))) == [1] * 10
    assert pool.statistics().discarded_total >= 1


async def test_one_that_died_idle_is_not_lent(pool: Pool[Any]) -> None:
    await asyncio.gather(*(ask(pool, "select pg_sleep(0.1)") for _ in range(3)))
    async with pool.acquire() as connection:
        await connection.execute(f"select pg_terminate_backend(pid) from {OTHERS}")
        async with asyncio.timeout(20):
            while await connection.fetchval(f"select count(*) from {OTHERS}"):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # their sockets close a moment later
    assert await asyncio.gather(*(ask(pool, "select 1") for _ in range(10))) == [1] * 10


async def test_the_server_crashes_and_comes_back_and_nobody_is_stuck(server: Postgres, pool: Pool[Any]) -> None:
    await asyncio.gather(*(ask(pool, "select pg_sleep(0.1)") for _ in range(3)))
    under_way = [asyncio.create_task(ask(pool, "select pg_sleep(60)")) for _ in range(8)]
    await asyncio.sleep(0.2)
    await asyncio.to_thread(server.crash)
    errors = await asyncio.wait_for(asyncio.gather(*under_way, return_exceptions=True), 30)
    assert {type(error) for error in errors} <= {Transient, ConnectFailed}
    with pytest.raises(ConnectFailed, match="no connection could be opened"):
        await ask(pool, "select 1")
    await asyncio.to_thread(server.start)
    assert await asyncio.gather(*(ask(pool, "select 1") for _ in range(20))) == [1] * 20
    figures = pool.statistics()
    assert (figures.in_use, figures.waiting) == (0, 0)
    assert figures.failed_total >= 1

"""PostgreSQL connections (asyncpg) in our pool.

    pool = postgres_pool("postgresql://…", name="orders-db", world=world, limits=PoolLimits(max_size=10))
    async with pool, pool.acquire() as connection:
        await connection.fetch("select 1")

What came back is reset (open transactions, cursors, LISTEN, session settings, advisory locks) before it is lent again,
in the background. A cancelled query costs no connection: asyncpg cancels it on the server, and the reset waits for
that. Needs the extra `postgres`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg  # type: ignore[import-untyped, unused-ignore]

from gapless.core.ports import World
from gapless.resilience.errors import Transient, Unsent
from gapless.resilience.events import GuardHook
from gapless.resilience.pool import Pool
from gapless.resilience.pool_limits import PoolLimits, broken_by

Connection = Any
"""asyncpg.Connection, which has no types."""

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    OSError,
)
"""The connection is gone, or about to go."""
AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""The transaction was undone by the server for the sake of another one: SQLSTATE 40001 and 40P01 ask to repeat it."""
CANCELLING_S = 0.005
"""Between two looks whether the server has cancelled the query: a round trip or so."""


def postgres_pool(
    dsn: str | None = None,
    *,
    name: str,
    world: World,
    limits: PoolLimits,
    hooks: tuple[GuardHook, ...] = (),
    **options: Any,
) -> Pool[Connection]:
    """`options` go to `asyncpg.connect`."""

    async def connect() -> Connection:
        return await asyncpg.connect(dsn, timeout=limits.connect_s, **options)

    async def close(connection: Connection) -> None:
        if not connection.is_closed():
            await connection.close(timeout=limits.close_s)

    return Pool(
        connect,
        name=name,
        world=world,
        limits=limits,
        check=ping,
        clean=reset_by(world),
        close=close,
        broken=broken,
        translate=translated,
        hooks=hooks,
    )


async def ping(connection: Connection) -> None:
    await connection.execute("")  # an empty query: a round trip that plans nothing


def reset_by(world: World) -> Callable[[Connection], Awaitable[None]]:
    async def reset(connection: Connection) -> None:
        while True:  # bounded by the pool's limit of a check
            try:
                await connection.reset()
                return
            except asyncpg.InterfaceError:
                if connection.is_closed():
                    raise
            await world.sleep(CANCELLING_S)

    return reset


def broken(connection: Connection, error: BaseException | None) -> bool:
    if connection.is_closed() or isinstance(error, LOST):
        return True
    return isinstance(error, Exception) and broken_by(connection, error)


def translated(error: BaseException) -> Exception | None:
    """A vendor's error that left the block → ours, so that `retry(on=Transient)` and `breaker` know it."""
    if isinstance(error, asyncpg.CannotConnectNowError):
        return Unsent(f"PostgreSQL is starting or stopping: {error}")
    if isinstance(error, LOST) or _closed(error):
        return Transient(f"the connection to PostgreSQL was lost: {error}", "It may have taken effect.")
    if isinstance(error, AGAIN):
        return Unsent(f"PostgreSQL undid the transaction: {error}", "Repeat it from its beginning.")
    return None


def _closed(error: BaseException) -> bool:
    """asyncpg tells a misuse and a lost connection apart by their words only."""
    return isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)

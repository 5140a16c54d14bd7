"""What borrowing a connection costs, and what an answer from the cache: ours beside its peers, in the same run.

    python benchmarks/pool.py [--rounds 7] [--calls 20000]

Net CPU µs per operation (that of the bare loop is taken off), median of the rounds and their spread. Connections are
pretended: what is measured is the pool. Peers that are not installed are said so: pip install connpool cashews.
Columns `idle`: one borrower and an idle connection. `handed over`: 20 borrowers and one connection, so that nearly
every one waits for his turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gapless.core.world import RealWorld
from gapless.resilience.cache import cached
from gapless.resilience.cache_bloom import Known
from gapless.resilience.pool import Pool
from gapless.resilience.pool_limits import PoolLimits

BORROWERS = 20

Use = Callable[[Awaitable[None] | None], Awaitable[None]]
"""Borrow, await what is given, give back."""


async def connect() -> object:
    return object()


async def bare(inside: Awaitable[None] | None) -> None:
    if inside is not None:
        await inside


@contextlib.asynccontextmanager
async def gapless_pool() -> AsyncIterator[Use]:
    async with Pool(connect, name="bench", world=RealWorld(), limits=PoolLimits(max_size=1)) as pool:

        async def use(inside: Awaitable[None] | None) -> None:
            async with pool.acquire():
                if inside is not None:
                    await inside

        yield use


@contextlib.asynccontextmanager
async def queue_pool() -> AsyncIterator[Use]:
    """The least there can be: no limits, no checks, no figures."""
    queue: asyncio.Queue[object] = asyncio.Queue()
    queue.put_nowait(object())

    async def use(inside: Awaitable[None] | None) -> None:
        connection = await queue.get()
        try:
            if inside is not None:
                await inside
        finally:
            queue.put_nowait(connection)

    yield use


@contextlib.asynccontextmanager
async def connpool() -> AsyncIterator[Use]:
    from connpool import AsyncConnectionPool, PoolConfig

    pool = AsyncConnectionPool.from_callables(connect, config=PoolConfig(max_size=1))

    async def use(inside: Awaitable[None] | None) -> None:
        async with pool.connection():
            if inside is not None:
                await inside

    async with pool:
        yield use


POOLS: dict[str, Callable[[], contextlib.AbstractAsyncContextManager[Use]]] = {
    "gapless": gapless_pool,
    "asyncio.Queue (bare)": queue_pool,
    "connpool": connpool,
}


@contextlib.asynccontextmanager
async def gapless_cache() -> AsyncIterator[Use]:
    @cached(ttl=1000, key="{sku}")
    async def price(sku: str) -> int:
        return 1

    await price("a")

    async def use(inside: Awaitable[None] | None) -> None:
        await price("a")

    yield use


@contextlib.asynccontextmanager
async def gapless_known() -> AsyncIterator[Use]:
    known = Known(capacity=100_000)
    known.fill(range(100_000))

    @cached(ttl=1000, key="{sku}", known=known)
    async def price(sku: int) -> int:
        return 1

    await price(7)

    async def use(inside: Awaitable[None] | None) -> None:
        await price(7)

    yield use


@contextlib.asynccontextmanager
async def cashews() -> AsyncIterator[Use]:
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://")

    @cache(ttl=1000, key="k:{sku}")
    async def price(sku: str) -> int:
        return 1

    await price("a")

    async def use(inside: Awaitable[None] | None) -> None:
        await price("a")

    yield use
    await cache.close()


CACHES: dict[str, Callable[[], contextlib.AbstractAsyncContextManager[Use]]] = {
    "gapless": gapless_cache,
    "gapless, known keys": gapless_known,
    "cashews": cashews,
}


async def alone(use: Use, calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        await use(None)
    return (time.process_time() - began) / calls * 1e6


async def together(use: Use, calls: int) -> float:
    """Each borrower lets the others run while it holds the connection, or nobody would ever wait."""

    async def borrow() -> None:
        for _ in range(calls // BORROWERS):
            await use(asyncio.sleep(0))

    began = time.process_time()
    await asyncio.gather(*(borrow() for _ in range(BORROWERS)))
    return (time.process_time() - began) / calls * 1e6


async def measure(make: Callable[[], contextlib.AbstractAsyncContextManager[Use]], how: Any, args: Any) -> list[float]:
    async with make() as use:
        await how(use, args.calls // 10)
        return [await how(use, args.calls) - await how(bare, args.calls) for _ in range(args.rounds)]


def shown(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):7.2f} ±{(max(rounds) - min(rounds)) / 2:5.2f}"


def row(name: str, make: Any, hows: list[Any], args: Any) -> None:
    try:
        cells = [shown(asyncio.run(measure(make, how, args))) for how in hows]
    except ImportError:
        cells = ["not installed"]
    print(f"  {name:24}" + "   ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20_000)
    args = parser.parse_args()
    print("borrowing, net CPU µs      idle              handed over")
    for name, make in POOLS.items():
        row(name, make, [alone, together], args)
    print("an answer from memory, net CPU µs")
    for name, make in CACHES.items():
        row(name, make, [alone], args)


if __name__ == "__main__":
    main()

"""The store in a Consul that is our own registry: the suite of all stores, and servers that die and hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from gapless.core.errors import ConfigError, StoreUnreachable
from gapless.core.ports import Put, Store
from gapless.core.world import RealWorld
from gapless.store import open_store
from gapless.testing import STORE_CHECKS, StoreRig
from gapless.testing.store import StoreCheck, run_check
from tests.integration.consul_store_kit import ConsulServer
from tests.integration.etcd_kit import Etcd

LIMIT_S = 60.0


@pytest.fixture(scope="module")
def consul() -> Iterator[ConsulServer]:
    with ConsulServer() as server:
        yield server


@asynccontextmanager
async def opened(where: str) -> AsyncIterator[Store]:
    store = await open_store(where, RealWorld())
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_passes(consul: ConsulServer, check: StoreCheck) -> None:
    async with opened(consul.address()) as store:
        await run_check(check, StoreRig(store=store, world=RealWorld(), ttl_s=1.0))


async def listen(store: Store, after: int, last: bytes | None) -> list[bytes | None]:
    heard: list[bytes | None] = []
    async for group in store.watch("k", after=after):
        heard += [update.value for update in group]
        if heard[-1] == last:
            return heard
    return heard


async def test_a_watch_goes_on_where_it_was_when_the_server_is_killed_and_comes_back() -> None:
    with ConsulServer() as consul:
        async with opened(consul.address()) as store:
            start = await store.put("other", b"")
            listening = asyncio.create_task(listen(store, start, None))
            await store.put("k", b"1")
            consul.kill()
            with pytest.raises(StoreUnreachable, match="no Consul answers"):
                await store.get("k")
            consul.start()
            await store.put("k", b"2")
            await store.delete("k")
            assert await asyncio.wait_for(listening, LIMIT_S) == [b"1", b"2", None]


async def test_another_server_is_asked_while_one_hangs_or_is_gone() -> None:
    """Two servers of one Consul: here both are registries on one etcd, so that they hold the same."""
    with Etcd() as etcd:
        shared = ("--store", f"etcd://{etcd.servers}/registry/")
        with ConsulServer(*shared) as one, ConsulServer(*shared) as two:
            async with opened(f"consul://127.0.0.1:{one.port},127.0.0.1:{two.port}/t/") as store:
                start = await store.put("k", b"0")
                listening = asyncio.create_task(listen(store, start, b"9"))
                for number in range(1, 10):
                    if number == 3:
                        one.freeze()
                    if number == 6:
                        one.thaw()
                        two.kill()
                    await store.put("k", str(number).encode())
                heard = await asyncio.wait_for(listening, LIMIT_S)
                assert heard == [str(number).encode() for number in range(1, 10)], "each of them once"


async def test_processes_that_write_at_once_make_one_history(consul: ConsulServer) -> None:
    where = consul.address()
    async with opened(where) as one, opened(where) as other:

        async def write(store: Store, name: str) -> None:
            for number in range(10):
                await store.transact(
                    Put(key=f"k/{name}", value=str(number).encode()), Put(key="k/last", value=name.encode())
                )

        await asyncio.gather(*(write(store, f"{store is one}{n}") for store in (one, other) for n in range(4)))
        assert (await one.list("")).revision == 80
        revisions: list[int] = []
        async for group in other.watch("k/", after=0):
            revisions.append(group[0].revision)
            if len(revisions) == 80:
                break
        assert revisions == list(range(1, 81))


@pytest.mark.parametrize("where", ["consul://", "consul://h:x", "consul://h?colour=red", "consuls://h?ca=/none"])
async def test_wrong_addresses(where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await open_store(where, RealWorld())
    assert caught.value.remedy


async def test_a_token_is_shown_and_a_wrong_one_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLESS_REGISTRY_TOKEN", "geheim")
    with ConsulServer() as consul:
        async with opened(f"{consul.address()}?token=geheim") as store:
            assert await store.put("k", b"1") == 1
            assert await anext(store.watch("k", after=0))
        async with opened(f"{consul.address()}?token=falsch") as stranger:
            with pytest.raises(ConfigError, match="403"):
                await stranger.get("k")
            with pytest.raises(ConfigError, match="403"):
                await anext(stranger.watch("k", after=0))

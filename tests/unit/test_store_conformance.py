"""Every backend of our own passes the suite that is shipped for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gapless.store.memory import MemoryStore
from gapless.testing import STORE_CHECKS, FakeWorld, StoreRig, check_store
from gapless.testing.store import StoreCheck, run_check
from tests.unit.store_kit import sqlite_store


@asynccontextmanager
async def memory() -> AsyncIterator[StoreRig]:
    world = FakeWorld()
    store = MemoryStore(world)
    try:
        yield StoreRig(store=store, world=world)
    finally:
        await store.close()


@asynccontextmanager
async def sqlite() -> AsyncIterator[StoreRig]:
    world = FakeWorld()
    with sqlite_store(world) as store:
        await store.open()
        try:
            yield StoreRig(store=store, world=world)
        finally:
            await store.close()


@pytest.mark.parametrize("make", [memory, sqlite])
@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_passes(make, check: StoreCheck) -> None:
    async with make() as rig:
        await run_check(check, rig)


async def test_the_whole_suite_runs_at_once() -> None:
    await check_store(memory)


async def test_a_failing_check_names_itself() -> None:
    class Forgetful(MemoryStore):
        async def get(self, key: str) -> None:
            return None

    @asynccontextmanager
    async def forgetful() -> AsyncIterator[StoreRig]:
        yield StoreRig(store=Forgetful(FakeWorld()), world=FakeWorld())

    with pytest.raises(AssertionError) as failure:
        await check_store(forgetful)
    assert "a_put_is_read_back" in failure.value.__notes__[0]

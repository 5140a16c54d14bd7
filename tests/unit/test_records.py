"""Records on a store whose answers get lost: written or not, nobody overwrites what it has not seen."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gapless.control.records import Records, persist
from gapless.core.errors import Conflict, StoreUnreachable
from gapless.core.model import Service
from gapless.core.ports import Op
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld

WEB = Service(name="web", app="web:app")


class Forgetful(MemoryStore):
    """`lose`: the next answers are lost, after the write ("done") or before it ("undone")."""

    def __init__(self) -> None:
        super().__init__(FakeWorld())
        self.lose: list[str] = []

    async def transact(self, *ops: Op) -> int:
        how = self.lose.pop(0) if self.lose else ""
        if how != "undone":
            revision = await super().transact(*ops)
        if how:
            raise StoreUnreachable
        return revision


@pytest.mark.parametrize("how", ["done", "undone"])
async def test_a_write_whose_answer_was_lost_is_read_before_the_next(how: str) -> None:
    store, rung = Forgetful(), []
    records = Records(store, lambda: rung.append(1))
    await records.load()
    await records.write(WEB)
    store.lose.append(how)
    with pytest.raises(StoreUnreachable):
        await records.write(replace(WEB, instances=5))
    assert records.service("web") == WEB, "not known yet"
    with pytest.raises(Conflict):
        await records.write(replace(WEB, instances=7))
    assert records.service("web") == (replace(WEB, instances=5) if how == "done" else WEB)
    assert rung == [1, 1]
    await records.write(replace(WEB, instances=7))
    await store.close()


async def test_amending_and_persisting_go_on_by_themselves() -> None:
    store = Forgetful()
    records = Records(store, lambda: None)
    await records.load()
    await records.write(WEB)
    store.lose.append("done")
    with pytest.raises(StoreUnreachable):
        await records.write(replace(WEB, instances=5))
    amended = await records.amend(WEB, lambda now: replace(now, workers=now.instances))
    assert amended is not None
    assert (amended.instances, amended.workers) == (5, 5)
    store.lose.append("done")
    with pytest.raises(StoreUnreachable):
        await records.write(delete=[WEB])
    await persist(lambda: records.write(delete=[WEB]))
    assert records.services() == []
    await store.close()


async def test_who_is_cancelled_while_it_writes_leaves_nobody_in_error() -> None:
    class Slow(MemoryStore):
        async def transact(self, *ops: Op) -> int:
            revision = await super().transact(*ops)
            if slow:
                written.set()
                await asyncio.Event().wait()
            return revision

    slow, written, store = False, asyncio.Event(), Slow(FakeWorld())
    records = Records(store, lambda: None)
    await records.load()
    await records.write(WEB)
    slow = True
    writing = asyncio.ensure_future(records.write(replace(WEB, instances=5)))
    await written.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    slow = False
    with pytest.raises(Conflict):
        await records.write(replace(WEB, instances=7))
    assert records.service("web") == replace(WEB, instances=5)
    await records.write(replace(WEB, instances=7))
    await store.close()

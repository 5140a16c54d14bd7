"""Any run of operations leaves both stores as a small dictionary says, through closing and opening again."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from gapless.core.errors import Compacted, Conflict, LeaseLost
from gapless.core.ports import Check, Delete, Entry, Op, Put, Update
from gapless.store._engine import Engine, Retention
from gapless.store.memory import MemoryStore
from gapless.store.sqlite import SqliteStore
from gapless.testing import FakeWorld
from tests.unit.store_kit import FAST

RETENTION = Retention(revisions=8, per_key=3, rows=1000)
"""So little that every long run meets the end of what is kept."""

KEYS = st.sampled_from(["a", "a/1", "a/2", "b", "ç"])
PREFIXES = st.sampled_from(["", "a", "a/", "b", "nobody"])
VALUES = st.binary(max_size=3)
EXPECT = st.sampled_from(["any", "right", "absent", "wrong"])


@dataclass
class Model:
    """What the store should be, in the plainest way."""

    entries: dict[str, Entry] = field(default_factory=dict)
    revision: int = 0
    groups: list[tuple[Update, ...]] = field(default_factory=list)
    leases: dict[str, float] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)

    def transact(self, ops: list[Op]) -> type[Exception] | int:
        for op in ops:
            found = self.entries[op.key].revision if op.key in self.entries else 0
            if op.expect is not None and op.expect != found:
                return Conflict
            if isinstance(op, Put) and op.lease and op.lease not in self.leases:
                return LeaseLost
        told = [
            self._write(op) for op in ops if isinstance(op, Put) or (isinstance(op, Delete) and op.key in self.entries)
        ]
        if told:
            self.revision += 1
            self.groups.append(tuple(told))
        return self.revision

    def _write(self, op: Put | Delete) -> Update:
        at = self.revision + 1
        if isinstance(op, Delete):
            del self.entries[op.key]
            return Update(key=op.key, value=None, revision=at)
        created = self.entries[op.key].created if op.key in self.entries else at
        self.entries[op.key] = Entry(key=op.key, value=op.value, revision=at, created=created, lease=op.lease)
        return Update(key=op.key, value=op.value, revision=at)

    def revoke(self, lease: str) -> None:
        if self.leases.pop(lease, None) is not None:
            del self.due[lease]
            self.transact([Delete(key=key) for key, entry in sorted(self.entries.items()) if entry.lease == lease])

    def advance(self, until: float) -> None:
        for due, lease in sorted((due, lease) for lease, due in self.due.items()):
            if due <= until:
                self.revoke(lease)

    def told(self, prefix: str, after: int) -> list[tuple[Update, ...]]:
        later = [[u for u in group if u.key.startswith(prefix)] for group in self.groups if group[0].revision > after]
        return [tuple(group) for group in later if group]

    def history(self, key: str) -> list[Update]:
        return [update for group in reversed(self.groups) for update in group if update.key == key]


class StoreMachine(RuleBasedStateMachine):
    """Drives a store and the model side by side. Subclasses say which store."""

    leases = Bundle("leases")
    durable = False

    def make(self) -> Engine:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.model, self.world = Model(), FakeWorld()
        self.store = self.make()
        self.run(self.opened())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    async def opened(self) -> None:
        if isinstance(self.store, SqliteStore):
            await self.store.open()

    def expected(self, key: str, how: str) -> int | None:
        found = self.model.entries[key].revision if key in self.model.entries else 0
        return {"any": None, "right": found, "absent": 0, "wrong": found + 1}[how]

    def both(self, ops: list[Op], call: Callable[[], Coroutine[Any, Any, int]]) -> None:
        wanted = self.model.transact(ops)
        if isinstance(wanted, int):
            assert self.run(call()) == wanted
        else:
            with pytest.raises(wanted):
                self.run(call())

    @rule(key=KEYS, value=VALUES, how=EXPECT)
    def put(self, key: str, value: bytes, how: str) -> None:
        op = Put(key=key, value=value, expect=self.expected(key, how))
        self.both([op], lambda: self.store.put(key, value, expect=op.expect))

    @rule(key=KEYS, value=VALUES, lease=leases)
    def put_leased(self, key: str, value: bytes, lease: str) -> None:
        self.both([Put(key=key, value=value, lease=lease)], lambda: self.store.put(key, value, lease=lease))

    @rule(key=KEYS, how=EXPECT)
    def delete(self, key: str, how: str) -> None:
        op = Delete(key=key, expect=self.expected(key, how))
        self.both([op], lambda: self.store.delete(key, expect=op.expect))

    @rule(writes=st.dictionaries(KEYS, st.one_of(st.none(), VALUES)), check=KEYS, how=EXPECT)
    def transact(self, writes: dict[str, bytes | None], check: str, how: str) -> None:
        ops: list[Op] = [Delete(key=k) if v is None else Put(key=k, value=v) for k, v in writes.items()]
        ops.append(Check(key=check, expect=self.expected(check, how) or 0))
        self.both(ops, lambda: self.store.transact(*ops))

    @rule(target=leases, ttl_s=st.integers(1, 9))
    def grant(self, ttl_s: int) -> str:
        lease = self.run(self.store.grant(ttl_s))
        self.model.leases[lease], self.model.due[lease] = ttl_s, self.world.now() + ttl_s
        return lease

    @rule(lease=leases)
    def renew(self, lease: str) -> None:
        held = lease in self.model.leases
        try:
            self.run(self.store.renew(lease))
            assert held
        except LeaseLost:
            assert not held
        if held:
            self.model.due[lease] = self.world.now() + self.model.leases[lease]

    @rule(lease=leases)
    def revoke(self, lease: str) -> None:
        self.run(self.store.revoke(lease))
        self.model.revoke(lease)

    @rule(seconds=st.integers(0, 12))
    def advance(self, seconds: int) -> None:
        async def go() -> None:
            await self.world.advance(seconds)
            await self.store.transact()  # returns after whatever was queued before it

        self.run(go())
        self.model.advance(self.world.now())

    @rule(target=leases)
    def reopen(self) -> Any:
        if self.durable:
            self.run(self.store.close())
            self.store = self.make()
            self.run(self.opened())
            self.model.due = {lease: self.world.now() + ttl_s for lease, ttl_s in self.model.leases.items()}
        return multiple()

    @rule(prefix=PREFIXES, back=st.integers(0, 12))
    def watch(self, prefix: str, back: int) -> None:
        after = max(self.model.revision - back, 0)
        told = self.model.told(prefix, after)

        async def heard() -> list[tuple[Update, ...]]:
            watch = self.store.watch(prefix, after=after)
            return [await anext(watch) for _ in told]

        try:
            assert self.run(heard()) == told
        except Compacted:
            assert self.model.revision - after > RETENTION.revisions

    @rule(key=KEYS, limit=st.integers(1, 20))
    def history(self, key: str, limit: int) -> None:
        wanted = self.model.history(key)
        found = list(self.run(self.store.history(key, limit=limit)))
        assert found == wanted[: len(found)]
        recent = [update for update in wanted if update.revision > self.model.revision - RETENTION.revisions]
        assert len(found) >= min(limit, max(len(recent), min(len(wanted), RETENTION.per_key)))

    @invariant()
    def reads_agree(self) -> None:
        listing = self.run(self.store.list(""))
        assert listing.revision == self.model.revision
        assert listing.entries == tuple(entry for _, entry in sorted(self.model.entries.items()))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.store.close())
            self.runner.close()


class MemoryMachine(StoreMachine):
    def make(self) -> Engine:
        return MemoryStore(self.world, RETENTION)


class SqliteMachine(StoreMachine):
    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="g-", dir=FAST)

    def make(self) -> Engine:
        return SqliteStore(Path(self.directory.name) / "store.db", self.world, RETENTION)

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(stateful_step_count=30, deadline=None)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)

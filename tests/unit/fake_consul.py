"""A Consul without HTTP, for what cannot be ordered from a real one: lost answers, and others that write in between."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Iterable, Sequence

from gapless.core.ports import World
from gapless.store._consul_http import CONSUL, WAIT_S, ConsulServers
from gapless.store._consul_wire import OPS, Json, Row
from gapless.store._servers import Lost

EXPECTING = ("cas", "delete-cas", "check-index", "check-not-exists")
ADDRESS = CONSUL.read("consul://nowhere:1/t/")


class FakeConsul:
    """The state of a Consul: keys with the index of their last write, as documented for /v1/txn and /v1/kv."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[str, Row] = {}
        self.index = 10
        self.writes = 0
        self.changed = asyncio.Event()

    def transact(self, ops: Sequence[Json]) -> dict[str, Row] | None:
        assert len(ops) <= OPS, f"{len(ops)} operations"
        after: dict[str, Row] = dict(self.rows)
        told: dict[str, Row] = {}
        for op in (one["KV"] for one in ops):
            verb, name, row = op["Verb"], op["Key"], after.get(op["Key"])
            if verb in EXPECTING and op.get("Index", 0) != (row.index if row else 0):
                return None
            if verb in ("set", "cas"):
                value = b64decode(op["Value"])
                # A write that changes nothing moves no index.
                after[name] = told[name] = row if row and row.value == value else Row(value, self.index + 1)
            elif verb == "delete-cas":
                del after[name]
        self.rows, self.index, self.writes = after, self.index + 1, self.writes + 1
        self.changed.set()
        self.changed = asyncio.Event()
        return told


class FakeServers(ConsulServers):
    """One process's way to it. `lose`: for each of the next writes, how often its answer is lost before one arrives;
    -1: none arrives at all, and the write was done."""

    def __init__(self, consul: FakeConsul) -> None:
        super().__init__(ADDRESS)
        self.consul = consul
        self.lose: list[int] = []

    async def read(self, names: Iterable[str], limit_s: float = 0.0) -> dict[str, Row]:
        await asyncio.sleep(0)
        wanted = tuple(names)
        return {name: row for name, row in self.consul.rows.items() if name.startswith(wanted)}

    async def write(self, ops: Sequence[Json], limit_s: float = 0.0) -> dict[str, Row] | None:
        await asyncio.sleep(0)
        lost = self.lose.pop(0) if self.lose else 0
        answer = self.consul.transact(ops)
        if lost < 0:
            raise Lost
        for _ in range(lost):
            answer = self.consul.transact(ops)
        await asyncio.sleep(0)
        return answer

    async def wait(self, name: str, index: int) -> int:
        row = self.consul.rows.get(name)
        if index and index == (row.index if row else 1):
            changed = self.consul.changed
            cancel = self.consul.world.after(WAIT_S, changed.set)
            try:
                await changed.wait()
            finally:
                cancel()
        await asyncio.sleep(0)
        row = self.consul.rows.get(name)
        return row.index if row else 1

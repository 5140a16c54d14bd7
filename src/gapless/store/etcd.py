"""The store in an etcd cluster, over its HTTP gateway (API v3; etcd 3.4 and newer): for systems beyond one machine.

Revisions are the cluster's own: others who write to it raise them too. History reaches back to the last compaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gapless.core.errors import LeaseLost, StoreClosed
from gapless.core.ports import Check, Delete, Entry, Listing, Op, Put, Update, World
from gapless.store._etcd_history import writes
from gapless.store._etcd_http import EtcdServers
from gapless.store._etcd_watch import EtcdWatch, Following
from gapless.store._etcd_wire import FENCE, Names, conflict, entry, lease_number, transaction
from gapless.store._keys import validate, validate_key, validate_ttl
from gapless.store._servers import CALL_S, RENEW_S, Address

PAGE = 2000
"""Keys per answer of a listing; all pages are of the first one's revision."""


class EtcdStore:
    """`core.ports.Store`. Ready when constructed; whether the cluster can be reached shows with the first call, which
    raises StoreUnreachable when it cannot."""

    def __init__(self, where: Address, world: World) -> None:
        self._world = world
        self._servers = EtcdServers(where)
        self._names = Names(where.prefix)
        self._watches: set[asyncio.Task[None]] = set()
        self._open = True

    async def get(self, key: str) -> Entry | None:
        answer = await self._range({"key": self._names.key(key)})
        kvs = answer.get("kvs", ())
        return entry(self._names, kvs[0]) if kvs else None

    async def list(self, prefix: str) -> Listing:
        end = self._names.end(prefix)
        asked: dict[str, Any] = {"key": self._names.key(prefix), "range_end": end, "limit": str(PAGE)}
        entries: list[Entry] = []
        while True:
            answer = await self._range(asked)
            page = [entry(self._names, kv) for kv in answer.get("kvs", ())]
            entries += [one for one in page if not one.key.endswith(FENCE)]
            revision = asked.setdefault("revision", answer["header"]["revision"])
            if not answer.get("more"):
                return Listing(entries=tuple(entries), revision=int(revision))
            asked["key"] = self._names.key(page[-1].key + "\0")

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: str = "") -> int:
        return await self.transact(Put(key=key, value=value, expect=expect, lease=lease))

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        return await self.transact(Delete(key=key, expect=expect))

    async def transact(self, *ops: Op) -> int:
        """Beyond the port: raises ValueError when a key is written twice or is none, TypeError for a value no bytes;
        StoreUnreachable. etcd takes 128 operations at once unless it was told otherwise (--max-txn-ops)."""
        self._must_be_open()
        ops = validate(ops)
        only_reads = all(isinstance(op, Check) for op in ops)
        answer = await self._call("kv/txn", transaction(self._names, ops), again=only_reads)
        if not answer.get("succeeded"):
            raise conflict(self._names, ops, answer)
        return int(answer["header"]["revision"])

    def watch(self, prefix: str, *, after: int) -> EtcdWatch:
        self._must_be_open()
        return EtcdWatch(Following(self._servers, self._names, self._world, prefix, after), self._watches)

    async def history(self, key: str, *, limit: int = 100) -> Sequence[Update]:
        """As far back as the cluster was not compacted."""
        self._must_be_open()
        validate_key(key)
        told = await writes(self._servers, self._names, key, await self.get(key))
        return told[: -limit - 1 : -1]

    async def grant(self, ttl_s: float) -> str:
        """etcd counts whole seconds, at least 2 in its default settings: less is rounded up."""
        validate_ttl(ttl_s)
        answer = await self._call("lease/grant", {"TTL": str(math.ceil(ttl_s)), "ID": "0"}, again=True)
        return str(answer["ID"])

    async def renew(self, lease: str) -> None:
        self._must_be_open()
        asked = {"ID": str(lease_number(lease))}
        answer = await self._call("lease/keepalive", asked, again=True, limit_s=RENEW_S)
        if "TTL" not in answer.get("result", {}):
            raise LeaseLost

    async def revoke(self, lease: str) -> None:
        self._must_be_open()
        with contextlib.suppress(LeaseLost):  # it is gone already
            await self._call("lease/revoke", {"ID": str(lease_number(lease))}, again=True)

    async def close(self) -> None:
        """Ends the watches. Closing twice is no error."""
        if not self._open:
            return
        self._open = False
        watches = list(self._watches)
        for watch in watches:
            watch.cancel()
        if watches:
            await asyncio.wait(watches)
        await self._servers.close()

    async def _range(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("kv/range", asked, again=True)

    async def _call(
        self, path: str, body: Mapping[str, Any], *, again: bool, limit_s: float = CALL_S
    ) -> dict[str, Any]:
        self._must_be_open()
        return await self._servers.call(path, body, again=again, limit_s=limit_s)

    def _must_be_open(self) -> None:
        if not self._open:
            raise StoreClosed

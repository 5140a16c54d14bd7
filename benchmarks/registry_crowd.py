"""Clients of a registry that is killed again and again: they write, read and wait, and hold all answers against what
they were told before (registry_ledger.py)."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from registry_asker import Client, Down
from registry_ledger import ABSENT, Counter, Ledger

WRITERS = 8
BEATERS = 4
OWNED = 6
"""Instances and keys of each writer."""
BEAT_TTL_S = 1.0
BEAT_EVERY_S = 0.2
COUNTER = "/v1/kv/load/counter"


class Writer(Client):
    """Has a service, another node, keys, a pair of keys, a session and a lock that nobody else writes."""

    def __init__(self, ledger: Ledger, counter: Counter, number: int, seed: int) -> None:
        super().__init__(ledger)
        self._counter = counter
        self._name = f"load-{number}"
        self._rng = random.Random(seed)
        self._session = ""
        self._lock_path = f"/v1/kv/locks/{self._name}"
        self._pair = f"pairs/{self._name}"
        self._far = f"far-{self._name}"

    def paths(self) -> list[str]:
        """What is to be watched of it."""
        return [
            f"/v1/health/service/{self._name}",
            f"/v1/catalog/service/{self._name}",
            f"/v1/health/checks/{self._name}",
            f"/v1/kv/{self._name}/?recurse",
            f"/v1/kv/{self._name}/?keys",
            f"/v1/kv/{self._name}/0",
            self._lock_path,
            f"/v1/kv/{self._pair}/?recurse",
            f"/v1/health/service/{self._far}",
            f"/v1/catalog/node/{self._far}",
            f"/v1/health/node/{self._far}",
        ]

    async def work(self) -> None:
        acts = [self._register, self._deregister, self._status, self._put, self._put, self._cas, self._delete]
        acts += [self._delete_all, self._pair_up, self._join, self._join, self._part]
        acts += [self._lock, self._release, self._destroy, self._count, self._look]
        while True:
            await self._rng.choice(acts)()

    async def _register(self) -> None:
        identity = self._instance()
        port = self._rng.randrange(1, 60_000)
        check = {"TTL": "60m", "Status": "passing"}
        body = {"Name": self._name, "ID": identity, "Port": port, "Tags": ["v1"], "Check": check}
        status = self.ledger.known(f"check {identity}") or "passing"
        await self._made(
            "/v1/agent/service/register", {f"instance {identity}": port, f"check {identity}": status}, body
        )

    async def _deregister(self) -> None:
        identity = self._instance()
        path = f"/v1/agent/service/deregister/{identity}"
        if self.ledger.known(f"instance {identity}") is not ABSENT:
            await self._made(path, {f"instance {identity}": ABSENT, f"check {identity}": ABSENT})

    async def _status(self) -> None:
        identity = self._instance()
        verb, status = self._rng.choice([("pass", "passing"), ("warn", "warning"), ("fail", "critical")])
        if self.ledger.known(f"instance {identity}") is not ABSENT:
            await self._made(f"/v1/agent/check/{verb}/service:{identity}", {f"check {identity}": status})

    async def _put(self) -> None:
        key, value = self._key(), self._rng.randrange(10**6)
        await self._made(f"/v1/kv/{key}", {f"key {key}": value}, value, answer=b"true")

    async def _cas(self) -> None:
        key, value = self._key(), self._rng.randrange(10**6)
        found = await self.read(f"/v1/kv/{key}")
        index = found[0]["ModifyIndex"] if found else 0
        await self._made(f"/v1/kv/{key}?cas={index}", {f"key {key}": value}, value, answer=b"true")

    async def _delete(self) -> None:
        key = self._key()
        await self._made(f"/v1/kv/{key}", {f"key {key}": ABSENT}, method="DELETE", answer=b"true")

    async def _delete_all(self) -> None:
        keys = {f"key {self._name}/{number}": ABSENT for number in range(OWNED)}
        await self._made(f"/v1/kv/{self._name}/?recurse", keys, method="DELETE", answer=b"true")

    async def _pair_up(self) -> None:
        """Both or none."""
        value = self._rng.randrange(10**6)
        data = base64.b64encode(json.dumps(value).encode()).decode()
        body = [{"KV": {"Verb": "set", "Key": f"{self._pair}/{side}", "Value": data}} for side in ("left", "right")]
        await self._made("/v1/txn", {f"pair {self._name}": (value, value)}, body)

    async def _join(self) -> None:
        """With a node of its own."""
        port, status = self._rng.randrange(1, 60_000), self._rng.choice(["passing", "warning", "critical"])
        body = {
            "Node": self._far,
            "Address": "10.0.0.1",
            "Service": {"Service": self._far, "Port": port},
            "Check": {"CheckID": "far", "ServiceID": self._far, "Status": status},
        }
        await self._made("/v1/catalog/register", {self._far: (port, status)}, body, answer=b"true")

    async def _part(self) -> None:
        await self._made("/v1/catalog/deregister", {self._far: ABSENT}, {"Node": self._far}, answer=b"true")

    async def _lock(self) -> None:
        if not self._session:
            body = {"LockDelay": "0s", "TTL": "600s", "Behavior": self._rng.choice(["release", "delete"])}
            made = self._session = json.loads(await self.write("/v1/session/create", body))["ID"]
            self.ledger.acknowledged(**{f"session {made}": True})
        path = f"{self._lock_path}?acquire={self._session}"
        await self._made(path, {f"lock {self._name}": self._session}, 1, answer=b"true")

    async def _release(self) -> None:
        if self._session and self.ledger.known(f"lock {self._name}"):
            path = f"{self._lock_path}?release={self._session}"
            await self._made(path, {f"lock {self._name}": ABSENT}, 1, answer=b"true")

    async def _destroy(self) -> None:
        if self._session:
            ended = {f"session {self._session}": ABSENT, f"lock {self._name}": ABSENT}
            await self._made(f"/v1/session/destroy/{self._session}", ended, answer=b"true")
            self._session = ""

    async def _count(self) -> None:
        found = await self.read(COUNTER)
        number = _value(found[0]) if found else 0
        index = found[0]["ModifyIndex"] if found else 0
        self._counter.asks()
        answer = await self.write(f"{COUNTER}?cas={index}", number + 1)
        self._counter.answered(done=answer == b"true")

    async def _look(self) -> None:
        """Everybody reads what he has written."""
        await self._rng.choice(self._comparisons())()

    async def _made(
        self, path: str, things: dict[str, Any], body: Any = None, *, method: str = "PUT", answer: bytes | None = None
    ) -> None:
        self.ledger.asks(**things)
        told = await self.write(path, body, method=method)
        self.ledger.acknowledged(**things)
        if answer is not None and told.strip() != answer:
            self.ledger.breach(f"{method} {path} was refused, and nobody else writes there: {told.decode()}")

    async def compare(self) -> None:
        """All that it owns."""
        for comparison in self._comparisons():
            await comparison()

    def _comparisons(self) -> list[Callable[[], Awaitable[None]]]:
        return [self._compare_instances, self._compare_keys, self._compare_pair, self._compare_far, self._compare_lock]

    async def _compare_instances(self) -> None:
        instances = {
            one["ServiceID"]: one["ServicePort"] for one in await self.read(f"/v1/catalog/service/{self._name}")
        }
        checks = {one["ServiceID"]: one["Status"] for one in await self.read(f"/v1/health/checks/{self._name}")}
        for number in range(OWNED):
            identity = f"{self._name}-{number}"
            self.ledger.found(f"instance {identity}", instances.get(identity))
            self.ledger.found(f"check {identity}", checks.get(identity))

    async def _compare_keys(self) -> None:
        keys = {row["Key"]: _value(row) for row in await self.read(f"/v1/kv/{self._name}/?recurse") or []}
        for number in range(OWNED):
            key = f"{self._name}/{number}"
            self.ledger.found(f"key {key}", keys.get(key))

    async def _compare_pair(self) -> None:
        rows = await self.read(f"/v1/kv/{self._pair}/?recurse") or []
        self.ledger.found(f"pair {self._name}", tuple(map(_value, rows)) or ABSENT)

    async def _compare_far(self) -> None:
        instances = await self.read(f"/v1/health/service/{self._far}")
        found = [(one["Service"]["Port"], one["Checks"][0]["Status"]) for one in instances]
        self.ledger.found(self._far, found[0] if found else ABSENT)

    async def _compare_lock(self) -> None:
        rows = await self.read(self._lock_path)
        self.ledger.found(f"lock {self._name}", rows[0].get("Session") if rows else None)
        if self._session:
            there = bool(await self.read(f"/v1/session/info/{self._session}"))
            self.ledger.found(f"session {self._session}", there or None)
            self._session = self._session if there else ""

    def _instance(self) -> str:
        return f"{self._name}-{self._rng.randrange(OWNED)}"

    def _key(self) -> str:
        return f"{self._name}/{self._rng.randrange(OWNED)}"


class Beater(Client):
    """An instance that tells that it lives. The registry may be away for longer than the time to live."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        super().__init__(ledger)
        self._identity = f"beat-{number}"
        self._heard_at = 0.0
        self.outlived = 0
        """Times that the registry was away for longer than the time to live."""

    async def compare(self) -> None:
        """Nobody may be critical because the registry was away, or nobody has told it yet since it is back."""
        away_s = time.monotonic() - self._heard_at
        checks = {one["ServiceID"]: one["Status"] for one in await self.read("/v1/health/checks/beat")}
        status = checks.get(self._identity)
        if self._heard_at and status != "passing":
            self.ledger.breach(f"{self._identity} is {status} after {away_s:.1f} s and a restart without a word of it")
        if not self._heard_at:
            check = {"TTL": f"{BEAT_TTL_S:g}s", "Status": "passing"}
            await self.write("/v1/agent/service/register", {"Name": "beat", "ID": self._identity, "Check": check})
        self.outlived += bool(self._heard_at) and away_s > BEAT_TTL_S
        self.ledger.compared += 1

    async def work(self) -> None:
        while True:
            await self.write(f"/v1/agent/check/pass/service:{self._identity}")
            self._heard_at = time.monotonic()
            await asyncio.sleep(BEAT_EVERY_S)


class Watcher(Client):
    """Waits for news of one path, and goes on behind the last it heard."""

    def __init__(self, ledger: Ledger, path: str) -> None:
        super().__init__(ledger)
        self._path = path

    async def work(self) -> None:
        while True:
            await self.read(self._path, wait=True)


COMMON = [
    "/v1/catalog/services",
    "/v1/catalog/nodes",
    "/v1/health/state/critical",
    "/v1/health/service/service-0",
    "/v1/health/service/nobody",
    "/v1/kv/nothing",
    "/v1/kv/locks/?keys",
    "/v1/kv/locks/?recurse",
    "/v1/session/list",
    "/v1/session/node/here",
    COUNTER,
]
LONG = ["/v1/catalog/node/here", "/v1/health/node/here", "/v1/health/state/any", "/v1/health/state/passing"]
"""Too long to be watched among thousands of instances: they are read after each restart."""


@dataclass(frozen=True)
class Found:
    breaches: list[str]
    more: int
    compared: int
    in_doubt: int
    indexes: int
    asked: int
    outlived: int


class Crowd:
    """All clients. `standing`: how many instances stand there that nobody touches."""

    def __init__(self, port: int, seed: int, standing: int) -> None:
        self._port = port
        self._standing = standing
        self._ledger = Ledger()
        self._counter = Counter(self._ledger)
        self._reader = Client(self._ledger)
        self._writers = [Writer(self._ledger, self._counter, each, seed * 1000 + each) for each in range(WRITERS)]
        self._beaters = [Beater(self._ledger, each) for each in range(BEATERS)]
        paths = [path for writer in self._writers for path in writer.paths()] + COMMON
        self._watchers = [Watcher(self._ledger, path) for path in paths]

    def _all(self) -> list[Any]:
        return [self._reader, *self._beaters, *self._writers, *self._watchers]

    async def compare(self, silence_s: float) -> None:
        """The registry is back: everything must be there, also when nobody tells for so long that he lives. Raises
        Down."""
        for client in self._all():
            await client.connect(self._port)
        await asyncio.sleep(silence_s)
        await asyncio.gather(*(beater.compare() for beater in self._beaters))
        await asyncio.gather(*(writer.compare() for writer in self._writers))
        await self._compare_common()

    async def _compare_common(self) -> None:
        found = await self._reader.read(COUNTER)
        self._counter.found(_value(found[0]) if found else 0)
        for path in COMMON + LONG:
            await self._reader.read(path)
        services = await self._reader.read("/v1/agent/services")
        standing = sum(identity.startswith("instance-") for identity in services)
        if standing != self._standing:
            self._ledger.breach(f"{standing} of {self._standing} instances stand that nobody has touched")

    async def work(self) -> None:
        """Until the registry is killed."""
        busy: list[Writer | Beater | Watcher] = [*self._writers, *self._beaters, *self._watchers]
        tasks = [asyncio.create_task(each.work()) for each in busy]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._all():
            client.wire.close()
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, Down):
                raise end

    def found(self) -> Found:
        ledger = self._ledger
        asked = sum(client.asked for client in self._all())
        outlived = sum(beater.outlived for beater in self._beaters)
        return Found(ledger.breaches, ledger.more, ledger.compared, ledger.in_doubt, ledger.indexes, asked, outlived)


def _value(row: Any) -> Any:
    return json.loads(base64.b64decode(row["Value"]))


async def _lives(port: int, seed: int, standing: int, pipe: Connection) -> None:
    crowd = Crowd(port, seed, standing)
    loop = asyncio.get_running_loop()
    while True:
        await crowd.compare(await loop.run_in_executor(None, pipe.recv))
        pipe.send(crowd.found())
        await crowd.work()


def crowd(port: int, seed: int, standing: int, pipe: Connection) -> None:
    """For each life of the registry: is told for how long to be silent at first, tells what was found then, and works
    until it is killed."""
    uvloop.run(_lives(port, seed, standing, pipe))

"""A client that costs less than what it measures: requests are bytes made beforehand, answers are only told apart."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import uvloop

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "
INDEX = b"x-consul-index: "


def request(method: str, path: str, body: Any = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: registry\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes

    @property
    def index(self) -> int:
        return int(field(self.head, INDEX))


def field(head: bytes, name: bytes) -> bytes:
    at = head.lower().index(name) + len(name)
    return head[at : head.index(b"\r\n", at)]


class Connection(asyncio.Protocol):
    """One request at a time; `answered` is called with each answer."""

    def __init__(self, answered: Callable[[Connection, Answer], None]) -> None:
        self._answered = answered
        self._buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(HEAD_END)
        if end < 0:
            return
        head = self._buffer[: end + 2]
        size = end + len(HEAD_END) + int(field(head, LENGTH))
        if len(self._buffer) >= size:
            body, self._buffer = self._buffer[end + len(HEAD_END) : size], self._buffer[size:]
            self._answered(self, Answer(int(head[9:12]), head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None


async def connected(port: int, answered: Callable[[Connection, Answer], None], count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port)
        made.append(connection)
    return made


class Rate(NamedTuple):
    """`p50_ms`, `p99_ms`: of one request, as its client waits."""

    per_s: float
    p50_ms: float
    p99_ms: float


def quantile(numbers: list[float], share: float) -> float:
    return sorted(numbers)[min(int(len(numbers) * share), len(numbers) - 1)]


async def _driven(port: int, requests: Iterator[bytes], connections: int) -> Rate:
    began: dict[Connection, float] = {}
    took: list[float] = []
    done = asyncio.get_running_loop().create_future()
    open_ones = connections

    def ask(connection: Connection) -> None:
        nonlocal open_ones
        data = next(requests, None)
        if data is not None:
            began[connection] = time.perf_counter()
            connection.send(data)
            return
        open_ones -= 1
        if not open_ones:
            done.set_result(None)

    def answered(connection: Connection, answer: Answer) -> None:
        took.append(time.perf_counter() - began[connection])
        if answer.status != 200 and not done.done():
            done.set_exception(RuntimeError(f"{answer.status}: {answer.body.decode()}"))
            return
        ask(connection)

    made = await connected(port, answered, connections)
    start = time.perf_counter()
    for connection in made:
        ask(connection)
    await done
    lasted_s = time.perf_counter() - start
    for connection in made:
        connection.transport.close()
    return Rate(len(took) / lasted_s, quantile(took, 0.5) * 1e3, quantile(took, 0.99) * 1e3)


def drive(port: int, requests: Iterable[bytes], connections: int) -> Rate:
    """All of the requests, over so many connections, each of which waits for its answer."""
    return uvloop.run(_driven(port, iter(requests), connections))


class Watch:
    """A blocking query that is asked anew after each answer."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.index = 0
        self.answered = 0

    def again(self) -> bytes:
        return request("GET", f"{self.path}?passing&wait=10m&index={self.index}")


class Watchers:
    """`paths`: what each of them watches. `moved` is called after each answer but the first."""

    def __init__(self, port: int, paths: list[str]) -> None:
        self._port = port
        self._paths = paths
        self._watches: dict[Connection, Watch] = {}
        self.moved: Callable[[Watch], None] = lambda _: None

    async def start(self) -> None:
        """Returns when all of them wait."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for path, connection in zip(
            self._paths, await connected(self._port, self._answered, len(self._paths)), strict=True
        ):
            self._watches[connection] = watch = Watch(path)
            connection.send(watch.again())
        while any(not watch.answered for watch in self._watches.values()):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)

    def _answered(self, connection: Connection, answer: Answer) -> None:
        watch = self._watches[connection]
        if answer.status != 200:
            raise RuntimeError(f"{watch.path}: {answer.status} {answer.body.decode()}")
        watch.index = answer.index
        watch.answered += 1
        connection.send(watch.again())
        if watch.answered > 1:
            self.moved(watch)

    def close(self) -> None:
        for connection in self._watches:
            connection.transport.abort()


class Spread(NamedTuple):
    """How a change arrives. `spurious`: answers to those whom it did not concern."""

    p50_ms: float
    p99_ms: float
    spurious: int


async def _spread(port: int, paths: list[str], changes: list[tuple[str, bytes]]) -> Spread:
    watchers = Watchers(port, paths)
    await watchers.start()
    took: list[float] = []
    spurious = 0
    for path, change in changes:
        concerned, arrived = paths.count(path), asyncio.get_running_loop().create_future()
        left = concerned
        began = time.perf_counter()

        def moved(watch: Watch) -> None:
            nonlocal left, spurious
            if watch.path != path:  # noqa: B023 - called before the next one
                spurious += 1
                return
            took.append(time.perf_counter() - began)  # noqa: B023
            left -= 1
            if not left:
                arrived.set_result(None)  # noqa: B023

        watchers.moved = moved
        (changer,) = await connected(port, lambda *_: None, 1)
        began = time.perf_counter()
        changer.send(change)
        await asyncio.wait_for(arrived, 60)
        await asyncio.sleep(0.02)
        changer.transport.close()
    watchers.close()
    return Spread(quantile(took, 0.5) * 1e3, quantile(took, 0.99) * 1e3, spurious)


def spread(port: int, paths: list[str], changes: list[tuple[str, bytes]]) -> Spread:
    """Watch the paths, make the changes one after the other, each of the path that it concerns."""
    return uvloop.run(_spread(port, paths, changes))


async def _held(port: int, paths: list[str], held: Any, release: Any) -> None:
    watchers = Watchers(port, paths)
    await watchers.start()
    held.set()
    await asyncio.get_running_loop().run_in_executor(None, release.wait)
    watchers.close()


def hold(port: int, paths: list[str], held: Any, release: Any) -> None:
    """Watch until `release` is set; `held` is set as soon as all wait. Both are events between processes."""
    uvloop.run(_held(port, paths, held, release))

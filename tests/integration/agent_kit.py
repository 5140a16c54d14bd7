"""The little of an agent's HTTP API that a caller needs, under a test's control: it can be killed, forget everything
and answer nonsense, which a good registry does not do on request."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Agent:
    """`/v1/health/service/…` with blocking queries, on a port of its own that it keeps when it comes back."""

    def __init__(self) -> None:
        self.port = 0
        self.index = 10
        self.places: list[str] = []
        self.asked: list[str] = []
        self.told: list[tuple[str, Any]] = []
        """What it was told by PUT."""
        self.hears = True
        self.raw: bytes | None = None
        """Sent as it is, in place of an answer."""
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"consul://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Agent:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Gone at once, with whoever waits."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def now(self, *ports: int | str, index: int | None = None) -> None:
        """From now on these are the passing instances of every service."""
        self.index = self.index + 1 if index is None else index
        self.places = [str(port) if isinstance(port, str) else f"127.0.0.1:{port}" for port in ports]
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, *_ = head.decode("latin-1").split(" ")
                writer.write(await (self._answer(target) if method == "GET" else self._take(target, head, reader)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side has gone, or this one is killed
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _take(self, target: str, head: bytes, reader: asyncio.StreamReader) -> bytes:
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        self.told.append((target, json.loads(await reader.readexactly(length))))
        return b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % (b"200 OK" if self.hears else b"404 Not Found")

    async def _answer(self, target: str) -> bytes:
        self.asked.append(target)
        known = int(parse_qs(urlsplit(target).query).get("index", ["0"])[0])
        while known == self.index and self.raw is None:
            await self._changed.wait()
        if self.raw is not None:
            return self.raw
        body = json.dumps([_entry(place) for place in self.places]).encode()
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: %d\r\nContent-Length: %d\r\n\r\n%s"
            % (self.index, len(body), body)
        )


def _entry(place: str) -> dict[str, object]:
    host, _, port = place.rpartition(":")
    return {
        "Node": {"Node": "n1", "Address": host, "Meta": {"zone": "a"}},
        "Service": {"ID": f"i{port}", "Service": "stock", "Address": host, "Port": int(port), "Meta": {}},
        "Checks": [],
    }

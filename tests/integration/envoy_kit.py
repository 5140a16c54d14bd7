"""A real Envoy with real upstream servers, for the gateway's tests."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools

from gapless.core.events import Event
from gapless.core.model import BUCKETS, Address, Endpoint, Entrance, Route, RouteTable, ServiceTable, Split, SplitBy
from gapless.core.world import RealWorld
from gapless.gateway.envoy import EnvoyGateway
from gapless.testing.traffic import Answer
from tests.ports import free_port

HOST = "127.0.0.1"


@dataclass(slots=True)
class Reply:
    """A whole HTTP response. `status` 0: none came."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    done: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.done = True

    @property
    def release(self) -> str:
        return self.headers.get("x-gapless-release", "")


class Client:
    """One keep-alive connection; it never retries. Opened anew when the server has closed it."""

    def __init__(self, port: int, address: str = HOST) -> None:
        """`address`: this machine's end of the connection."""
        self._port = port
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, path: str, *, method: str = "GET", host: str = "localhost", headers: Mapping[str, str] | None = None
    ) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port, local_addr=(self._address, 0))
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}", "content-length: 0"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        reply = Reply()
        parser = httptools.HttpResponseParser(reply)
        while not reply.done:
            data = await reader.read(65_536)
            if not data:
                break
            parser.feed_data(data)
        reply.status = parser.get_status_code() if reply.done else 0
        if not reply.done or not parser.should_keep_alive():
            await self.close()
        return reply

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None


async def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    host: str = "localhost",
    headers: Mapping[str, str] | None = None,
    address: str = HOST,
) -> Reply:
    """One request on a connection of its own."""
    client = Client(port, address)
    try:
        return await client.ask(path, method=method, host=host, headers=headers)
    finally:
        await client.close()


class Upstream:
    """An instance. The path tells what it does: `/…?status=500`, `/…?wait=0.5`, `/…?abort=1`, `/…?draining=1`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        """(method, path with query, headers) of every request."""
        self.delay_s = 0.0
        """Before every answer."""
        self.status = 200
        """Of every answer whose path names none."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> Upstream:
        self._server = await asyncio.start_server(self._accept, HOST, port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def endpoint(self, release: str = "1") -> Endpoint:
        return Endpoint(instance=self.name, release=release, address=Address(host=HOST, port=self.port))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        self.seen.append((method, target, headers))
        asked = dict(part.split("=", 1) for part in target.partition("?")[2].split("&") if part)
        if "upgrade" in headers:
            await self._echo(reader, writer)
            return False
        await asyncio.sleep(float(asked.get("wait", self.delay_s)))
        if "abort" in asked:
            writer.transport.abort()
            return False
        status = 503 if "draining" in asked else int(asked.get("status", self.status))
        extra = "x-gapless-draining: 1\r\n" if "draining" in asked else ""
        body = self.name.encode()
        writer.write(f"HTTP/1.1 {status} Said\r\ncontent-length: {len(body)}\r\n{extra}\r\n".encode() + body)
        await writer.drain()
        return True

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        while data := await reader.read(1024):
            writer.write(data)
            await writer.drain()


_PROCESS = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@asynccontextmanager
async def upstream_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, Endpoint]]:
    """An instance that can be killed: every answer takes it 20 ms."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", _PROCESS, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield process, Endpoint(instance=str(process.pid), release="1", address=Address(host=HOST, port=port))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def service(
    endpoints: Sequence[Endpoint],
    *,
    name: str = "orders",
    canary: int = 0,
    by: SplitBy = SplitBy.USER,
    salt: str = "orders-7",
    timeout_s: float = 15.0,
    routes: Sequence[Route] | None = None,
) -> ServiceTable:
    """Stable release 1, newcomer 2 with `canary` buckets."""
    split = Split(service=name, stable="1", weights=(("2", canary), ("1", BUCKETS - canary)), by=by, salt=salt)
    found = (Route(path=f"/{name}"),) if routes is None else tuple(routes)
    return ServiceTable(service=name, split=split, endpoints=tuple(endpoints), routes=found, timeout_s=timeout_s)


def table(*services: ServiceTable, version: int = 1) -> RouteTable:
    return RouteTable(version=version, services=services)


@dataclass(slots=True)
class Rig:
    """A running gateway with its upstream servers; implements `testing.traffic.TrafficRig`."""

    traffic: EnvoyGateway
    port: int
    state: Path
    events: list[Event]
    upstreams: list[Upstream] = field(default_factory=list)

    async def upstream(self, name: str) -> Upstream:
        found = await Upstream(name).start()
        self.upstreams.append(found)
        return found

    async def endpoint(self, service: str, release: str, instance: str) -> Endpoint:
        return (await self.upstream(instance)).endpoint(release)

    async def ask(
        self,
        path: str,
        *,
        host: str = "localhost",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        address: str = HOST,
    ) -> Answer:
        reply = await ask(self.port, path, method=method, host=host, headers=headers, address=address)
        ok = reply.status == 200
        return Answer(status=reply.status, release=reply.release, instance=reply.body.decode() if ok else "")

    async def clear(self) -> None:
        """Between tests: nothing is routed, no upstream runs."""
        await self.traffic.apply(table(version=0))
        for upstream in self.upstreams:
            await upstream.stop()
        self.upstreams.clear()


def gateway(
    port: int, state: Path, events: list[Event], entrance: Entrance | None = None, **options: Any
) -> EnvoyGateway:
    entrance = entrance or Entrance(listen=Address(host=HOST, port=port))
    return EnvoyGateway(entrance, state, RealWorld(), events=events.append, workers=2, **options)


@asynccontextmanager
async def running(entrance: Entrance | None = None) -> AsyncIterator[Rig]:
    """A gateway for a whole module; its Envoy is ended with it."""
    state = Path(tempfile.mkdtemp(prefix="g-"))
    events: list[Event] = []
    port = entrance.listen.port if entrance else free_port(HOST)
    rig = Rig(gateway(port, state, events, entrance), port, state, events)
    try:
        await rig.traffic.start()
        yield rig
    finally:
        for upstream in rig.upstreams:
            await upstream.stop()
        await rig.traffic.stop(drain_s=1)
        shutil.rmtree(state)


async def eventually(condition: object, limit_s: float = 10.0) -> None:
    """Wait until `condition()` holds. Raises TimeoutError."""
    assert callable(condition)
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)

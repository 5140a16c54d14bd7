"""The service client against real sockets: servers that refuse, reset, hang, truncate, close, and are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gapless.core.codec import encode
from gapless.core.errors import Unavailable
from gapless.core.model import BUCKETS, Address, Endpoint, RouteTable, ServiceTable, Split
from gapless.core.world import RealWorld
from gapless.discovery.directory import Directory
from gapless.service.client import Client
from tests.ports import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Port: %d\r\n\r\nok"


async def head(reader: asyncio.StreamReader) -> bytes:
    """A request's head; its body is short enough to be ignored by these servers."""
    return await reader.readuntil(b"\r\n\r\n")


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        asked = await head(reader)
        length = int(dict(line.split(b": ", 1) for line in asked.split(b"\r\n")[1:-2]).get(b"content-length", b"0"))
        await reader.readexactly(length)
        writer.write(OK % writer.get_extra_info("sockname")[1])
        await writer.drain()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.transport.abort()


async def truncates(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def says_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@asynccontextmanager
async def serving(*handlers: Handler) -> AsyncIterator[list[int]]:
    """A server for each handler; their ports."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(handler: Handler) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await handler(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                pass  # the other side has gone, or the test has ended
            finally:
                writer.close()

        return serve

    servers = [await asyncio.start_server(accept(handler), "127.0.0.1", 0) for handler in handlers]
    try:
        yield [server.sockets[0].getsockname()[1] for server in servers]
    finally:
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def at(ports: list[int]) -> list[str]:
    return [f"127.0.0.1:{port}" for port in ports]


async def test_a_closed_port_is_refused_and_another_instance_answers() -> None:
    free = free_port("127.0.0.1")
    async with serving(answers) as ports, Client("stock", endpoints=at([free, *ports])) as client:
        for _ in range(10):
            answer = await client.post("/reserve?n=1", json={"sku": "A"})
            assert (answer.status, answer.content, answer.headers["x-port"]) == (200, b"ok", str(ports[0]))


@pytest.mark.parametrize("broken", [resets, truncates])
async def test_a_broken_connection_is_asked_again_elsewhere_if_that_is_safe(broken: Handler) -> None:
    async with serving(broken, answers) as ports:
        for _ in range(8):
            async with Client("stock", endpoints=at(ports)) as client:
                assert (await client.get("/")).content == b"ok"
        async with Client("stock", endpoints=at(ports[:1])) as client:
            with pytest.raises(Unavailable, match="connection broke"):
                await client.post("/")


async def test_an_instance_that_hangs_is_given_up_in_time() -> None:
    async with serving(hangs, answers) as ports:
        for _ in range(3):
            async with Client("stock", endpoints=at(ports)) as client:
                assert (await client.get("/", deadline_s=2)).content == b"ok"
        async with Client("stock", endpoints=at(ports[:1])) as client:
            with pytest.raises(Unavailable, match="no answer within"):
                await client.post("/", deadline_s=0.1)


async def test_connection_close_is_honoured() -> None:
    async with serving(says_close) as ports, Client("stock", endpoints=at(ports)) as client:
        for _ in range(5):
            assert (await client.post("/")).content == b"ok"


SERVER = """
import os, signal, sys, uvicorn
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off")
"""


@asynccontextmanager
async def process(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(port))
    try:
        for _ in range(400):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                break
        yield child
    finally:
        if child.returncode is None:
            os.kill(child.pid, signal.SIGKILL)
        await child.wait()


async def test_killing_an_instance_loses_no_repeatable_call() -> None:
    ports = [free_port("127.0.0.1") for _ in range(2)]
    async with process(ports[0]) as victim, process(ports[1]), Client("stock", endpoints=at(ports)) as client:
        failures: list[BaseException] = []
        done = 0

        async def buy(n: int) -> None:
            nonlocal done
            for i in range(60):
                try:
                    assert (await client.post("/pay", idempotency_key=f"{n}-{i}")).status == 200
                except BaseException as error:  # noqa: BLE001 - counted, and shown by the assertion
                    failures.append(error)
                done += 1
                if done == 200:
                    os.kill(victim.pid, signal.SIGKILL)
                await asyncio.sleep(0.002)

        await asyncio.gather(*(buy(n) for n in range(8)))
        assert failures == []
        assert done == 480


def table(version: int, port: int) -> RouteTable:
    endpoint = Endpoint(instance=f"i{port}", release="1", address=Address(host="127.0.0.1", port=port))
    split = Split(service="stock", stable="1", weights=(("1", BUCKETS),))
    return RouteTable(version=version, services=(ServiceTable(service="stock", split=split, endpoints=(endpoint,)),))


class Control:
    """Streams tables on a Unix socket as the control plane does, some in pieces."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.writers: list[asyncio.StreamWriter] = []
        self.first = b""
        self.server: asyncio.Server | None = None

    async def up(self, first: bytes) -> None:
        self.first = first
        self.server = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await head(reader)).startswith(b"GET /v1/discovery HTTP/1.1\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.writers.append(writer)
        await self.say(self.first)

    async def say(self, document: bytes) -> None:
        for part in (document[:7], document[7:] + b"\n"):
            self.writers[-1].write(b"%x\r\n%s\r\n" % (len(part), part))
            await self.writers[-1].drain()

    async def down(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)
        self.writers.clear()
        Path(self.path).unlink(missing_ok=True)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came true")


async def test_the_directory_follows_control_and_outlives_it(short_dir: Path) -> None:
    control = Control(short_dir / "control.sock")
    (short_dir / "discovery.json").write_bytes(encode(table(1, 1001)))
    directory = Directory.of_control(str(short_dir), control.path, RealWorld())
    await directory.start()
    try:
        assert (await directory.wait_for("stock")).endpoints[0].address.port == 1001
        await control.up(encode(table(2, 1002)))
        await until(lambda: directory.table.version == 2)
        await control.say(encode(table(3, 1003)))
        await until(lambda: directory.table.version == 3)
        await control.say(b'{"nonsense": true}')
        await control.down()
        await asyncio.sleep(0.2)
        assert directory.table.version == 3
        await control.up(encode(table(9, 1009)))
        await until(lambda: directory.table.version == 9)
    finally:
        await directory.aclose()
        await control.down()


async def test_a_socket_that_is_no_control_plane_is_survived(short_dir: Path) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
        writer.close()

    server = await asyncio.start_unix_server(rude, str(short_dir / "c.sock"))
    directory = Directory.of_control("", str(short_dir / "c.sock"), RealWorld())
    await directory.start()
    await asyncio.sleep(0.3)
    assert directory.table.version == 0
    await directory.aclose()
    server.close()

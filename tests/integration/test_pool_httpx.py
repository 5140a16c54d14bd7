"""Our pool in front of httpx, against a real HTTP server in a process of its own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from gapless.core.world import RealWorld
from gapless.resilience import deadline
from gapless.resilience.errors import PoolTimeout, Transient
from gapless.resilience.pool_errors import ConnectFailed
from gapless.resilience.pool_httpx import PooledTransport
from gapless.resilience.pool_limits import PoolLimits
from tests.ports import free_port

WORLD = RealWorld()
START_S = 20.0
APP = """\
import asyncio

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await asyncio.sleep(float(scope["query_string"] or 0))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"he", "more_body": True})
    await send({"type": "http.response.body", "body": b"re"})
"""


class Server:
    def __init__(self, directory: Path) -> None:
        self.port = free_port("127.0.0.1")
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.directory / "tiny_app.py").write_text(APP)
        argv = [sys.executable, "-m", "uvicorn", "tiny_app:app", "--port", str(self.port), "--lifespan", "off"]
        self.process = subprocess.Popen([*argv, "--log-level", "error"], cwd=self.directory)
        until = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert time.monotonic() < until, "the server did not start"
                time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="g-http-") as directory:
        server = Server(Path(directory))
        server.start()
        yield server
        server.kill()


@pytest.fixture
async def transport() -> AsyncIterator[PooledTransport]:
    transport = PooledTransport(name="stock", world=WORLD, limits=PoolLimits(max_size=3), trust_env=False)
    yield transport
    await transport.aclose()


@pytest.fixture
async def client(server: Server, transport: PooledTransport) -> AsyncIterator[httpx.AsyncClient]:
    if server.process is None:
        server.start()
    async with httpx.AsyncClient(transport=transport, base_url=server.url, timeout=20) as client:
        yield client


async def test_many_requests_few_connections(client: httpx.AsyncClient, transport: PooledTransport) -> None:
    answers = await asyncio.gather(*(client.get("/") for _ in range(50)))
    assert {answer.text for answer in answers} == {"here"}
    figures = transport.statistics()
    assert 1 <= figures.created_total <= 3
    assert (figures.idle, figures.in_use, figures.acquired_total) == (figures.size, 0, 50)


async def test_an_open_response_holds_its_place_and_is_named(
    client: httpx.AsyncClient, transport: PooledTransport
) -> None:
    async def forget() -> list[httpx.Response]:
        return [await client.send(client.build_request("GET", "/"), stream=True) for _ in range(3)]

    forgotten = await forget()
    token = deadline.current.set(WORLD.now() + 0.2)
    with pytest.raises(PoolTimeout, match=r"3 of 3 are out, .*test_pool_httpx\.py"):
        await client.get("/")
    deadline.current.reset(token)
    for response in forgotten:
        await response.aclose()
    assert (await client.get("/")).text == "here"
    assert transport.statistics().in_use == 0


async def test_reading_obeys_the_deadline(client: httpx.AsyncClient, transport: PooledTransport) -> None:
    begun = time.monotonic()
    token = deadline.current.set(WORLD.now() + 0.2)
    with pytest.raises(Transient) as caught:
        await client.get("/?10")
    deadline.current.reset(token)
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout)
    assert time.monotonic() - begun < 5
    assert transport.statistics().in_use == 0


async def test_cancelled_requests_leave_nothing(client: httpx.AsyncClient, transport: PooledTransport) -> None:
    for wait in (0, 0.001, 0.005, 0.05):
        tasks = [asyncio.create_task(client.get("/?1")) for _ in range(6)]
        await asyncio.sleep(wait)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        figures = transport.statistics()
        assert (figures.in_use, figures.waiting) == (0, 0)
    assert (await client.get("/")).text == "here"


async def test_the_server_dies_and_comes_back_and_nobody_is_stuck(
    server: Server, client: httpx.AsyncClient, transport: PooledTransport
) -> None:
    under_way = [asyncio.create_task(client.get("/?10")) for _ in range(8)]
    await asyncio.sleep(0.2)
    server.kill()
    errors = await asyncio.wait_for(asyncio.gather(*under_way, return_exceptions=True), 20)
    assert {type(error) for error in errors} <= {Transient, ConnectFailed}
    with pytest.raises(ConnectFailed):
        await client.get("/")
    await asyncio.to_thread(server.start)
    answers = await asyncio.gather(*(client.get("/") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    figures = transport.statistics()
    assert (figures.in_use, figures.waiting) == (0, 0)
    assert figures.failed_total >= 1

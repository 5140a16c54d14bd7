"""The guard before real servers: `gapless serve` with rules in its environment, and plain uvicorn."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from gapless.core.model import Route, Service
from gapless.core.protect import BreakerRule, LimitRule, Protect, RateRule
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.guard import Guard, guard
from gapless.resilience.limit import limit
from gapless.service.asgi import App, Receive, Scope, Send
from gapless.service.protect import Protected
from gapless.service.protect_rules import VARIABLE, render
from tests.integration.redis_kit import RedisServer
from tests.integration.serve_kit import Server, request, served, until

RULES = Service(
    name="shop",
    protect=Protect(deadline_s=0.5, limit=LimitRule(max=2)),
    routes=(
        Route(path="/rated", protect=Protect(rate=RateRule(limit=3, per_s=3600.0, by="user"))),
        Route(path="/stream", protect=Protect(deadline_s=60.0)),
        Route(path="/sleep/0.7", protect=Protect(deadline_s=10.0, breaker=BreakerRule(max_requests=9))),
    ),
)


@pytest.fixture
def server(short_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, render(RULES))
    monkeypatch.setenv("GAPLESS_SERVICE", "shop")
    with served(short_dir) as found:
        yield found


def test_workers_count_together_on_a_redis(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer() as redis:
        shared = RateRule(limit=9, per_s=3600.0, by="user", shared=redis.url.replace(str(redis.port), "${PORT}"))
        monkeypatch.setenv(VARIABLE, render(Service(name="shop", protect=Protect(rate=shared))))
        monkeypatch.setenv("PORT", str(redis.port))
        with served(short_dir, "--workers", "3") as server:
            statuses = [server.get("/", "x-user-id: ada")[0] for _ in range(30)]
            assert statuses.count(200) == 9
            answered = {server.get("/", f"x-user-id: {n}")[2].split()[1] for n in range(60)}
            assert len(answered) > 1, "by several workers"


def busy(server: Server, guard_name: str) -> float:
    labels = f'guard="{guard_name}",name="busy",policy="limit"'
    lines = server.ask("/metrics")[2].decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("gapless_guard_policy_value{") and all(part in line for part in labels.split(","))
    )


def test_rules_of_gapless_yaml_stand_before_the_app(server: Server) -> None:
    answers = [server.get("/rated", "x-user-id: ada") for _ in range(5)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429, 429]
    status, headers, body = answers[-1]
    assert headers["content-type"] == "application/problem+json"
    assert 1 <= int(headers["retry-after"]) <= 1200
    assert json.loads(body)["policy"] == "rate"
    assert server.get("/rated", "x-user-id: bob")[0] == 200
    status, _, body = server.get("/block/0")
    assert (status, server.get("/other")[0]) == (200, 200)
    assert server.get("/livez")[0] == 200
    metrics = server.ask("/metrics")[2].decode()
    assert 'gapless_guard_calls_total{guard="shop /rated",' in metrics
    assert server.metric("gapless_guard_calls_total") >= 8


def test_a_limit_answers_503_and_a_client_that_left_frees_its_place(server: Server) -> None:
    streams = [stream(server) for _ in range(2)]
    until(lambda: busy(server, "shop /stream") == 2, "both places are taken")
    status, headers, body = server.get("/stream")
    assert (status, json.loads(body)["policy"]) == (503, "limit")
    assert int(headers["retry-after"]) >= 1
    for sock in streams:
        sock.close()
    until(lambda: busy(server, "shop /stream") == 0, "both places are free")
    stream(server).close()


def stream(server: Server) -> socket.socket:
    sock = server.connect()
    sock.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
    assert sock.recv(15) == b"HTTP/1.1 200 OK"
    return sock


def test_a_keep_alive_connection_goes_on_after_refusals(server: Server) -> None:
    with server.connect() as sock:
        found = [request(sock, "/rated")[0] for _ in range(6)]
    assert found == [200, 200, 200, 429, 429, 429]


def test_the_deadline_is_504(server: Server) -> None:
    """Of the service's guard, for every path that is no route's own."""
    assert server.get("/sleep/0.7")[0] == 200
    status, _, body = server.get("/sleep/5")
    assert (status, json.loads(body)["policy"]) == (504, "deadline")


@asynccontextmanager
async def under_uvicorn(app: App) -> AsyncIterator[int]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[method-assign,attr-defined]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


def places(found: Guard) -> int:
    return int(found.statistics()["policies"]["limit"]["busy"])


async def test_plain_uvicorn_and_an_app_that_never_listens() -> None:
    async def ticks(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await asyncio.sleep(30)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"tick", "more_body": True})
            await asyncio.sleep(0.01)

    found = guard("ticks", limit(1))
    guards = {"/": found, "/slow": guard("slow", deadline(0.2))}
    async with under_uvicorn(Protected(ticks, guards)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert places(found) == 1
        assert (await status_of(port, "/")) == 503
        assert (await status_of(port, "/slow")) == 504
        writer.close()
        async with asyncio.timeout(10):
            while places(found):
                await asyncio.sleep(0.01)
    assert found.statistics()["failed"] == 0


async def status_of(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])

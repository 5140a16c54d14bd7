"""One switch records the calls of asyncpg, gRPC, httpx, Redis and SQLAlchemy, each to the real thing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gapless.server.admin.ask import ask
from tests.integration.postgres_kit import postgres
from tests.integration.redis_kit import RedisServer
from tests.integration.serve_kit import Server, exchange, served, until

APP = """
import asyncpg, grpc, httpx, redis.asyncio, sqlalchemy

REDIS, POSTGRES = {redis!r}, {postgres!r}

async def calls(port):
    async with redis.asyncio.from_url(REDIS) as store:
        await store.ping()
    connection = await asyncpg.connect(POSTGRES)
    await connection.fetchval("SELECT 1")
    await connection.close()
    with sqlalchemy.create_engine("sqlite://").connect() as engine:
        engine.execute(sqlalchemy.text("SELECT 2"))
    async with httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{{port}}/leaf")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        try:
            await channel.unary_unary("/shop.Stock/Get")(b"", timeout=5)
        except grpc.aio.AioRpcError:
            pass  # an HTTP server is no gRPC server; the call is recorded all the same

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/":
        await calls(scope["server"][1])
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"ok"}})
"""
EVERYTHING = {"sample": 1.0, "instrument": ["asyncpg", "grpc", "httpx", "redis", "sqlalchemy"]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> Iterator[Server]:
    monkeypatch.setenv("GAPLESS_TRACING", json.dumps(EVERYTHING))
    with RedisServer() as redis, postgres() as database:
        app = APP.format(redis=redis.url, postgres=database.dsn)
        with served(short_dir, app=app) as server:
            yield server


def spans(server: Server) -> list[dict[str, Any]]:
    found = ask(server.admin, "GET", "/traces?after=0", 10.0).body["spans"]
    return [span for span in found if span["trace_id"] == TRACE]


def test_calls_of_libraries_are_in_the_tree(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = f"GET / HTTP/1.1\r\nhost: x\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\nconnection: close\r\n\r\n"
        assert exchange(client, head.encode())[0] == 200
    until(lambda: any(span["parent_id"] == "00f067aa0ba902b7" for span in spans(server)), "the whole trace")
    found = spans(server)
    root = next(span for span in found if span["parent_id"] == "00f067aa0ba902b7")
    calls = {span["span_id"]: span for span in found if span["parent_id"] == root["span_id"]}
    told = [json.dumps([span["name"], span["attributes"]]) for span in calls.values()]
    for sign in ("PING", "postgresql", "sqlite", "/leaf", "shop.Stock"):
        assert [text for text in told if sign in text], (sign, told)
    leaf = [span for span in found if span["kind"] == "server" and span["attributes"].get("url.path") == "/leaf"]
    assert leaf[0]["parent_id"] in calls, "what httpx has called goes on in the same trace"

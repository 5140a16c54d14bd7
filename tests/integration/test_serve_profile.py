"""A hot loop, a leak and a stuck worker are planted in a service, and found as docs/profiling.md says."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gapless.observe.profile import pprof
from gapless.observe.profile.top import rows
from gapless.server.admin.ask import fetch
from tests.integration.serve_kit import Server, Steady, served, until

APP = """
import asyncio, time

LEDGER = []

class Order:
    def __init__(self):
        self.items = ["x" * 10_000]

def total_of_everything():
    return sum(i * i for i in range(30_000))

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/hot":
        total_of_everything()
    elif scope["path"] == "/leak":
        LEDGER.append(Order())
    elif scope["path"] == "/stuck":
        time.sleep(30)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("p"), "--workers", "2", "--heartbeat", "60s", app=APP) as server:
        yield server


def look(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gapless", "profile", "--admin", f"unix:{server.admin}", *words]
    return subprocess.run(command, cwd=server.folder, capture_output=True, text=True, timeout=100)


async def test_a_hot_loop_is_found(server: Server, tmp_path: Path) -> None:
    async with Steady(server.port, path="/hot", rate=30) as load:
        done = await asyncio.to_thread(look, server, "--seconds", "2", "-o", str(tmp_path / "cpu.pb.gz"))
    assert done.returncode == 0, done.stderr
    assert "speedscope" in done.stderr
    hottest = rows(pprof.decode((tmp_path / "cpu.pb.gz").read_bytes()))[0]
    assert hottest.place.name.startswith("total_of_everything")
    assert hottest.place.file.endswith("app.py")
    assert load.lost() == []


async def test_a_leak_is_found_without_a_lost_request(server: Server) -> None:
    workers = server.workers()
    async with Steady(server.port, path="/leak", rate=40) as load:
        done = await asyncio.to_thread(look, server, "--kind", "leaks", "--seconds", "2")
    assert done.returncode == 0, done.stderr
    assert "app.Order: app.LEDGER → list → app.Order" in done.stdout
    assert load.lost() == []
    until(lambda: len(set(server.workers()) & set(workers)) == 1, "one worker is replaced")


def test_a_stuck_worker_is_found_from_outside(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: "app (app.py" in look(server, "--kind", "stuck").stdout, "the stack of the stuck worker")


def test_what_waits_and_what_memory_holds(server: Server) -> None:
    status, text = fetch(server.admin, "GET", "/debug/pprof/heap?debug=1", 60.0)
    assert status == 200
    assert "of space" in text.decode()


def test_wrong_words_are_refused(server: Server) -> None:
    status, text = fetch(server.admin, "GET", "/debug/pprof/profile?seconds=1h", 10.0)
    assert status == 400
    assert "seconds=10" in json.loads(text)["remedy"]

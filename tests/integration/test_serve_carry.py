"""State that travels from a real worker to the one that takes its place."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tests.integration.serve_kit import APP, Server, served, until

COUNTING = (
    APP
    + """
from gapless import Service, breaker

COUNTS = {}

async def app(scope, receive, send, inner=app):
    path = scope.get("path", "")
    COUNTS[path] = COUNTS.get(path, 0) + 1
    if path == "/counts":
        await answer(send, __import__("json").dumps(COUNTS).encode())
    elif path == "/mail":
        try:
            with service.guards.get("mail").enter():
                raise ConnectionError("no mail")
        except Exception as error:
            await answer(send, type(error).__name__.encode())
    else:
        await inner(scope, receive, send)

service = Service("orders", app)
service.guards.define("mail", breaker(rate=0.5, minimum=2, open_for=600.0))
service.carry("counts", dump=lambda: COUNTS, load=COUNTS.update)
"""
)


def counts(server: Server) -> dict[str, int]:
    found: dict[str, int] = json.loads(server.get("/counts")[2])
    return found


def state(server: Server, result: str) -> float:
    lines = server.ask("/metrics")[2].decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith(f'gapless_server_state_total{{result="{result}"')
    )


def test_counters_and_guards_travel_at_a_reload(short_dir: Path) -> None:
    with served(short_dir, app=COUNTING + "\napp = service\n") as server:
        for _ in range(3):
            server.get("/a")
        answers = [server.get("/mail")[2] for _ in range(4)]
        assert answers[-1] == b"BreakerOpen"
        assert server.reload()[0] == 200
        assert counts(server)["/a"] == 3
        assert server.get("/mail")[2] == b"BreakerOpen"
        assert state(server, "carried") == 2


def test_they_travel_when_a_worker_is_recycled_and_not_when_it_is_killed(short_dir: Path) -> None:
    with served(short_dir, "--max-requests", "10", app=COUNTING + "\napp = service\n") as server:
        (first,) = server.workers()
        for _ in range(12):
            server.get("/a")
        until(lambda: server.workers() not in ([], [first]), "it is recycled")
        assert counts(server)["/a"] == 12
        (second,) = server.workers()
        os.kill(second, signal.SIGKILL)
        until(lambda: server.workers() not in ([], [second]), "it is replaced")
        assert "/a" not in counts(server)


def test_state_that_is_lost_too_big_or_broken_holds_no_reload_up(short_dir: Path) -> None:
    bad = COUNTING + (
        "\nservice.carry('big', dump=lambda: bytes(1000), load=print, limit=10)"
        "\nservice.carry('broken', dump=lambda: 1, load=lambda value: 1 / 0)"
        "\nservice.carry('slow', dump=lambda: asyncio.sleep(600), load=print)\napp = service\n"
    )
    with served(short_dir, app=bad) as server:
        server.get("/a")
        status, told = server.reload()
        assert status == 200
        took_s = {stage["name"]: stage["took_s"] for stage in told["stages"]}
        assert took_s["committed"] < 3.0  # one second is the limit
        assert counts(server)["/a"] == 1
        assert state(server, "left behind") == 3
        server.says("1000 bytes are over its limit of 10")
        server.says("it took too long")


def test_a_source_whose_loop_is_blocked_holds_no_reload_up(short_dir: Path) -> None:
    with served(short_dir, app=COUNTING + "\napp = service\n") as server, server.connect() as busy:
        busy.sendall(b"GET /block/4 HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.3)
        assert server.reload()[0] == 200
        server.says("did not come in time")
        until(lambda: state(server, "lost") == 1, "it is counted")

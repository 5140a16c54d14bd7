"""The kit in real servers: Starlette inside, uvicorn outside, and what `load` makes of files on disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gapless.service.client import Client
from gapless.service.identity import Identity
from gapless.service.kit import Service
from tests.ports import free_port

RUN = """
import sys, uvicorn
from gapless.service.kit import load
uvicorn.run(load("shopapp:service"), port=int(sys.argv[1]), log_level="error")
"""

APP = """
import asyncio
from gapless import Service

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        print("slow", flush=True)
        await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["state"]["database"].encode()})

service = Service("shop", app)

@service.resource
async def database():
    yield "opened"
    print("closed", flush=True)
"""


LOAD = """
from gapless.service.kit import load
try:
    load({target!r})
except Exception as error:
    print(type(error).__name__, error)
"""


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], Client]]:
    (directory / "shopapp.py").write_text(APP)
    port = free_port("127.0.0.1")
    env = {**os.environ, "GAPLESS_RELEASE": "1.4.0", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(port)], cwd=directory, env=env, stdout=subprocess.PIPE
    ) as child:
        try:
            async with Client("shop", endpoints=[f"127.0.0.1:{port}"]) as client:
                for _ in range(400):
                    with contextlib.suppress(Exception):
                        if (await client.get("/readyz", deadline_s=1)).status == 200:
                            break
                    await asyncio.sleep(0.05)
                yield child, client
        finally:
            child.kill()


async def test_a_service_under_a_foreign_server_drains_on_sigterm(short_dir: Path) -> None:
    async with running(short_dir) as (child, client):
        answer = await client.get("/")
        assert (answer.status, answer.content) == (200, b"opened")
        assert answer.headers["x-gapless-release"] == "1.4.0"
        slow = asyncio.ensure_future(client.get("/slow"))
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == b"slow\n"
        os.kill(child.pid, signal.SIGTERM)
        assert (await slow).status == 200
        output = await asyncio.to_thread(child.communicate)
        assert output[0].decode().splitlines() == ["closed"]


async def test_the_wrapped_apps_own_lifespan_is_run() -> None:
    done: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, str]]:
        done.append("up")
        yield {"pool": "ten"}
        done.append("down")

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.pool + request.state.cache)

    service = Service(app=Starlette(routes=[Route("/", page)], lifespan=lifespan), identity=Identity())

    @service.resource
    async def cache() -> AsyncIterator[str]:
        assert done == []
        yield " hot"
        assert done == ["up", "down"]

    await service.start(5)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await service.app({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, receive, send)
    assert sent[1]["body"] == b"ten hot"
    assert await service.finish(1)
    await service.close(1)
    assert done == ["up", "down"]


async def test_a_hanging_blocking_check_uses_one_thread_only() -> None:
    import threading

    gate, entered = threading.Event(), []
    service = Service(identity=Identity())

    @service.check(timeout_s=0.05, every_s=0.05)
    def blocking() -> None:
        entered.append(1)
        if len(entered) > 1:
            gate.wait(10)

    await service.start(5)
    async with asyncio.timeout(20):
        while service.ready or len(entered) < 2:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert len(entered) == 2
    assert json.loads(json.dumps(service.health()))["checks"]["blocking"]["detail"].startswith("no answer within")
    gate.set()
    for _ in range(100):
        await asyncio.sleep(0.05)
        if service.ready:
            break
    assert service.ready
    await service.finish(1)
    await service.close(1)


@pytest.mark.parametrize(
    ("code", "target", "message"),
    [
        ("import nosuchthing", "broken:app", "ModuleNotFoundError: No module named 'nosuchthing'"),
        ("def f(:", "broken:app", "SyntaxError"),
        ("x = 1 / 0", "broken:app", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('no config')", "broken:app", "SystemExit: no config"),
        ("def other(): ...", "broken:app", "has no attribute 'app'\n  → callables in the module: other"),
        ("app = 3", "broken:app", "is a int, not an ASGI or WSGI app"),
        ("", "missing:app", "there is no module 'missing'"),
        ("", "broken", "write module:attribute"),
    ],
)
def test_what_cannot_be_loaded_is_told_with_the_users_own_frames(
    short_dir: Path, code: str, target: str, message: str
) -> None:
    (short_dir / "broken.py").write_text(code + "\n")
    script = LOAD.format(target=target)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=short_dir, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("AppError ")
    assert message in done.stdout
    assert "importlib" not in done.stdout
    assert "loader.py" not in done.stdout

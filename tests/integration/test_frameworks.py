"""Apps of the frameworks that people use: each starts, answers, reloads under load, and drains. And WSGI's own ways."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.serve_kit import APP, Server, Steady, exchange, response, served, until

EXAMPLES = Path(__file__).parents[2] / "examples" / "frameworks"
NAMES = sorted(path.stem for path in EXAMPLES.glob("with_*.py"))
OPENED = {"with_fastapi": "FastAPI", "with_starlette": "Starlette", "with_litestar": "Litestar"}
"""Those that have a lifespan, and how they call themselves."""


def code(name: str) -> str:
    return (EXAMPLES / f"{name}.py").read_text()


def under_way(server: Server, path: str) -> socket.socket:
    sock = server.connect()
    sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    until(lambda: server.metric("gapless_requests_in_flight") >= 1, "it is under way")
    return sock


def version(server: Server) -> str:
    status, _, body = server.get("/")
    assert status == 200, body
    return str(json.loads(body)["version"])


def check_drain(server: Server) -> None:
    with under_way(server, "/slow?seconds=1.5") as busy:
        server.signal(signal.SIGTERM)
        status, _, body = response(busy)
        assert (status, json.loads(body)["version"]) == (200, "2")
        assert server.wait() == 0


@pytest.mark.parametrize("name", NAMES)
async def test_it_starts_reloads_under_load_and_drains(short_dir: Path, name: str) -> None:
    with served(short_dir, app=code(name)) as server:
        assert version(server) == "1"
        async with Steady(server.port, rate=60) as load:
            server.write(code(name).replace('VERSION = "1"', 'VERSION = "2"'))
            status, told = await asyncio.to_thread(server.reload)
            assert status == 200, told
            assert version(server) == "2", "only the new code answers"
        assert load.lost() == []
        assert load.summary.requests > 20
        if name in OPENED:
            assert json.loads(server.get("/")[2])["opened"] == f"by {OPENED[name]}"
        await asyncio.to_thread(check_drain, server)
        assert name not in OPENED or server.out.count(f"closed by {OPENED[name]}") == 2, "one for each generation"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_mounted_in_a_service(short_dir: Path, name: str) -> None:
    with served(short_dir, app=code(name), target="app:service") as server:
        assert version(server) == "1"
        assert server.get("/readyz")[0] == 200
        # It is counted when the app has returned, which a WSGI app in its thread does after its last byte has left.
        until(lambda: server.metric("gapless_requests_total") == 1, "one request is counted")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "closed by the service" in server.out
        assert name not in OPENED or f"closed by {OPENED[name]}" in server.out


def test_a_streamed_body_comes_as_it_is_made_and_is_finished_by_a_drain(short_dir: Path) -> None:
    with served(short_dir, app=code("with_flask")) as server, server.connect() as sock:
        sock.sendall(b"GET /count HTTP/1.1\r\nhost: x\r\n\r\n")
        head = sock.recv(65_536)
        until(lambda: server.metric("gapless_requests_in_flight") >= 1, "it is under way")
        assert b"9\n" not in head
        server.signal(signal.SIGTERM)
        body = head
        while received := sock.recv(65_536):
            body += received
        assert body.endswith(b"9\n\r\n0\r\n\r\n")
        assert server.wait() == 0


def test_a_thread_that_does_not_end_is_named_and_the_server_ends_anyway(short_dir: Path) -> None:
    with served(short_dir, "--drain", "2", app=code("with_flask")) as server, under_way(server, "/slow?seconds=60"):
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        server.says("over the drain limit: GET /slow")


def test_threads_answer_beside_each_other(short_dir: Path) -> None:
    with (
        served(short_dir, "--threads", "2", app=code("with_flask")) as server,
        under_way(server, "/slow?seconds=30"),
    ):
        assert version(server) == "1"
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGTERM)


WSGI_ANYTHING = """
def app(*args):
    environ, start_response = args
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]
"""


def test_a_wsgi_app_that_does_not_look_like_one(short_dir: Path) -> None:
    with served(short_dir, "--wsgi", app=WSGI_ANYTHING) as server:
        chunked = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        assert exchange(server.connect(), chunked + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")[2] == b"abcde"


ASGI2 = APP.replace("async def app(scope, receive, send):", "async def app3(scope, receive, send):") + (
    "\nimport functools\ndef app(scope):\n    return functools.partial(app3, scope)\n"
)


def test_an_asgi2_app_and_its_lifespan(short_dir: Path) -> None:
    with served(short_dir, app=ASGI2) as server:
        assert server.get("/")[2].startswith(b"1 ")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "closed by" in server.out


def test_a_factory_without_the_option_is_refused_with_the_option(short_dir: Path) -> None:
    server = Server(short_dir, app=APP + "\ndef make():\n    return app\n", target="app:make")
    try:
        assert server.wait() == 4
        server.says("'app:make' is no app: it takes no argument")
        server.says("add --factory")
    finally:
        server.end()

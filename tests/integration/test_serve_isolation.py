"""What fails in one request harms no other one, and can be found again."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.integration.serve_kit import request, served, until

APP = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    if scope["path"] == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    if scope["path"] in ("/bad", "/half"):
        raise ValueError("there is no such order")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.mark.parametrize("path", ["/bad", "/half"])
def test_an_exception_is_counted_logged_with_its_request_and_nobody_else_s(short_dir: Path, path: str) -> None:
    with served(short_dir, app=APP) as server:
        workers, slow = server.workers(), list[int]()
        neighbour = threading.Thread(target=lambda: slow.append(server.get("/slow")[0]))
        neighbour.start()
        assert server.get(path, "x-request-id: order-17")[0] == 500
        with server.connect() as connection:
            assert request(connection, "/")[0] == 200
        neighbour.join()
        assert slow == [200]
        assert server.workers() == workers
        until(lambda: "no such order" in server.out + server.err, "the log")
        lines = [json.loads(each) for each in (server.out + server.err).splitlines() if "no such order" in each]
        assert len(lines) == 1, "once"
        assert lines[0]["request_id"] == "order-17"
        assert "ValueError: there is no such order" in lines[0]["error"]
        begun = "2xx" if path == "/half" else "5xx"
        assert f'gapless_requests_total{{method="GET",route="",status="{begun}"}}' in server.ask("/metrics")[2].decode()

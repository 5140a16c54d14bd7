"""Live settings under `gapless serve`: the file is watched, and a reload reads everything anew by the same way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.integration.serve_kit import served, until

APP = """
from typing import Annotated
from gapless import Service
from gapless.config import NEEDS_RESTART, Settings, live

class Shop(Settings):
    price: int = 3
    pool: Annotated[int, NEEDS_RESTART] = 1

settings = live(Shop, file="shop.toml", prefix="SHOP_")

async def answer(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    now = settings.current
    body = f"{now.price} {now.pool}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

app = Service("shop", answer, settings=settings)
"""


def put(folder: Path, text: str) -> None:
    """As a deploy writes it: beside, and then in one step."""
    (folder / "new").write_text(text)
    os.replace(folder / "new", folder / "shop.toml")


def test_a_file_is_obeyed_at_once_and_what_needs_a_restart_with_a_reload(short_dir: Path) -> None:
    put(short_dir, "price = 4\n")
    with served(short_dir, app=APP) as server:
        assert server.get("/")[2] == b"4 1"
        worker = server.workers()
        put(short_dir, "price = 5\npool = 2\n")
        until(lambda: server.get("/")[2] == b"5 1", "the new price")
        assert server.workers() == worker
        server.says("need a restart")
        put(short_dir, "price = 6\n\npool = 'two'\n")
        until(lambda: "shop.toml:3: pool: " in server.err, "the complaint")
        assert server.get("/")[2] == b"5 1"

        status, told = server.reload()
        assert status == 422
        assert 'shop.toml:3: pool: "two": not a whole number' in "\n".join([told["error"], *told["log"]])
        assert (server.get("/")[2], server.workers()) == (b"5 1", worker)

        put(short_dir, "price = 6\npool = 2\n")
        server.signal(signal.SIGHUP)
        until(lambda: server.get("/")[2] == b"6 2", "both")

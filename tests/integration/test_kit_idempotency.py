"""Payments with idempotency keys over two processes on one file, one of them killed: each is made exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from gapless.service.client import Client
from tests.ports import free_port

PAYMENT = """
import asyncio, sqlite3, sys, uvicorn
from gapless.consistency.claims import Claims
from gapless.consistency.idempotency import Idempotency, StoredResponse, complete_in, current
from gapless.core.world import RealWorld
from gapless.service.kit import Service

ledger = sqlite3.connect("pay.db", timeout=10)
ledger.execute("PRAGMA journal_mode = WAL")
ledger.execute("CREATE TABLE IF NOT EXISTS paid (key TEXT, pid INTEGER)")
ledger.commit()

async def app(scope, receive, send):
    assert scope["type"] == "http"
    claim = current()
    await asyncio.sleep(0.01)  # the claim is held: the kill often falls in here
    with ledger:
        ledger.execute("INSERT INTO paid VALUES (?, ?)", (claim.key, 1))
        complete_in(ledger, claim, StoredResponse(status=200, headers=(), body=claim.key.encode()))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": claim.key.encode()})

world = RealWorld()
service = Service("payment", Idempotency(app, Claims("pay.db", world), world))
uvicorn.run(service, port=int(sys.argv[1]), log_level="error")
"""


@contextlib.asynccontextmanager
async def payment(directory: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", PAYMENT, str(port), cwd=directory, env=env)
    try:
        async with Client("payment", endpoints=[f"127.0.0.1:{port}"]) as probing:
            for _ in range(400):
                with contextlib.suppress(Exception):
                    if (await probing.get("/readyz", deadline_s=1)).status == 200:
                        break
                await asyncio.sleep(0.05)
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGKILL)
        await child.wait()


async def test_a_killed_instance_neither_loses_nor_doubles_a_payment(short_dir: Path) -> None:
    ports = [free_port("127.0.0.1") for _ in range(2)]
    keys = [f"order-{n}" for n in range(120)]
    async with (
        payment(short_dir, ports[0]) as victim,
        payment(short_dir, ports[1]),
        Client("payment", endpoints=[f"127.0.0.1:{port}" for port in ports]) as client,
    ):
        waiting = list(keys)
        wrong: list[str] = []

        async def pay() -> None:
            while waiting:
                key = waiting.pop()
                if len(waiting) == 60:
                    victim.send_signal(signal.SIGKILL)
                answer = await client.post("/pay", json={"key": key}, idempotency_key=key, user="ann", deadline_s=30)
                if (answer.status, answer.content) != (200, key.encode()):
                    wrong.append(f"{key}: {answer}")

        await asyncio.gather(*(pay() for _ in range(8)))
        assert wrong == []
        assert await victim.wait() == -signal.SIGKILL
        again = await client.post("/pay", json={"key": keys[0]}, idempotency_key=keys[0], user="ann")
        assert again.headers["idempotent-replayed"] == "true"
    with contextlib.closing(sqlite3.connect(short_dir / "pay.db")) as ledger:
        paid = [key for (key,) in ledger.execute("SELECT key FROM paid")]
    assert sorted(paid) == sorted(keys)

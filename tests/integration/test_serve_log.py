"""A drain under load loses no line, though whoever reads the log is slow."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.integration.serve_kit import Steady, until
from tests.ports import free_port

APP = """
import asyncio, logging
log = logging.getLogger("shop")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await asyncio.get_running_loop().run_in_executor(None, log.info, "served " + "x" * 2000)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})
"""


def slow_reader(reading: int, into: bytearray) -> threading.Thread:
    def read() -> None:
        while part := os.read(reading, 16_384):
            into.extend(part)
            time.sleep(0.004)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


async def test_a_drain_loses_no_line_to_a_slow_reader(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    port = free_port("127.0.0.1")
    argv = [sys.executable, "-m", "gapless", "serve", "app:app", "--bind", f"127.0.0.1:{port}", "--access-log"]
    reading, writing = os.pipe()
    out = tmp_path / "out"
    with out.open("wb") as output:
        process = subprocess.Popen([*argv, "--announce", "0.2s"], cwd=tmp_path, stdout=output, stderr=writing)
    os.close(writing)
    written = bytearray()
    reader = slow_reader(reading, written)
    try:
        await asyncio.to_thread(until, lambda: "Serving" in out.read_text(), "ready")
        async with Steady(port, rate=150.0, connections=4) as load:
            await asyncio.sleep(2.0)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(1.0)
        assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        os.close(reading)
    lines = [json.loads(line) for line in written.splitlines()]
    served = [line["request_id"] for line in lines if line["message"].startswith("served ")]
    logged = [line["request_id"] for line in lines if line["logger"] == "gapless.access" and "request_id" in line]
    assert len(served) >= load.summary.answered > 100
    assert sorted(served) == sorted(logged), "each request has its own line and one of the access log"
    assert all(len(line["trace_id"]) == 32 for line in lines if "request_id" in line)
    assert not [line for line in lines if "dropped" in line["message"]]

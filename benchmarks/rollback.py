"""How soon `gapless rollback` acts, while the old pool is kept and when it is not.

    .venv/bin/python benchmarks/rollback.py [--times 10]

A system of one service behind a real Envoy, asked without pause on one keep-alive connection. Each round deploys a new
release and goes back by the control plane's own HTTP (what the verb sends, without the start of its interpreter).
Counted is the time from sending that to the end of the first answer of the release before, after which no other may
come. "kept" is `blue-green`, whose old pool is still there: one change of the gateway's table. "started" keeps
nothing, so that instances are started first; it stands beside it in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

APP = """\
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
CONFIG = """\
system: rollback
gateway: {{listen: "127.0.0.1:{port}"}}
services:
  web:
    app: web:app
    source: app
    instances: 2
    routes: [/]
    drain: 2s
    rollout: {{strategy: blue-green, hold: 0s, samples: 1, power: 0%, keep: {keep}}}
"""
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LIMIT_S = 120.0


@dataclass
class Asker:
    """Asks without pause; `answers` are (moment, release)."""

    port: int
    answers: list[tuple[float, str]] = field(default_factory=list)

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while True:
                writer.write(REQUEST)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                await reader.readexactly(int(fields.get("content-length", "0")) or await chunks(reader, fields))
                self.answers.append((time.perf_counter(), fields["x-gapless-release"]))
        finally:
            writer.close()


async def chunks(reader: asyncio.StreamReader, fields: dict[str, str]) -> int:
    """Read a chunked body to its end."""
    while fields.get("transfer-encoding") == "chunked":
        size = int(await reader.readline(), 16)
        await reader.readexactly(size + 2)
        if not size:
            break
    return 0


class System:
    def __init__(self, directory: Path, keep: str) -> None:
        self.directory, self.port = directory, free_port()
        (directory / "app").mkdir()
        (directory / "app" / "web.py").write_text(APP)
        (directory / "gapless.yaml").write_text(CONFIG.format(port=self.port, keep=keep))

    def verb(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "gapless", *words]

    async def post(self, path: str, body: dict[str, Any]) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self.directory / ".gapless" / "control.sock"))
        content = json.dumps({"who": "benchmark", **body}).encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        answer = await reader.read()
        writer.close()
        assert b" 200 " in answer.split(b"\r\n", 1)[0], answer

    async def ended(self) -> None:
        """Until no rollout is under way and the pools have what is wanted of them."""
        began = time.perf_counter()
        while time.perf_counter() - began < LIMIT_S:
            done = await asyncio.to_thread(
                subprocess.run, self.verb("status", "--json"), cwd=self.directory, capture_output=True, text=True
            )
            if done.returncode == 0:
                status = json.loads(done.stdout)
                rollout = status["services"].get("web", {}).get("rollout")
                if status["ready"] and (rollout is None or rollout["state"] in ("promoted", "rolled back")):
                    return
            await asyncio.sleep(0.2)
        raise SystemExit("the rollout does not end")


async def rounds(keep: str, times: int) -> list[float]:
    directory = Path(tempfile.mkdtemp(prefix="back-"))
    system = System(directory, keep)
    with (directory / "up.log").open("wb") as log:
        up = subprocess.Popen(system.verb("up"), cwd=directory, stdout=log, stderr=log)
    try:
        await system.ended()
        asker = Asker(system.port)
        asking = asyncio.create_task(asker.run())
        found = [await one(system, asker, f"r{number}") for number in range(times)]
        asking.cancel()
        return found
    finally:
        await asyncio.to_thread(subprocess.run, system.verb("down"), cwd=directory, capture_output=True)
        up.wait(LIMIT_S)
        shutil.rmtree(directory)


async def one(system: System, asker: Asker, release: str) -> float:
    """ms from the request to go back until the first answer of the release before."""
    before = asker.answers[-1][1] if asker.answers else ""
    await system.post("/v1/services/web/deploy", {"version": release, "env": {"RELEASE": release}})
    await system.ended()
    assert asker.answers[-1][1] == release, f"{release} was not promoted"
    asker.answers.clear()
    began = time.perf_counter()
    await system.post("/v1/services/web/rollback", {})
    while not any(answer != release for _, answer in asker.answers):
        await asyncio.sleep(0.001)
    obeyed = next(moment for moment, answer in asker.answers if answer != release)
    await asyncio.sleep(0.2)
    late = sum(answer == release for moment, answer in asker.answers if moment > obeyed)
    assert not late, f"{late} answers of {release} after the first one of {before or 'the release before'}"
    await system.ended()
    return (obeyed - began) * 1e3


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    for name, keep in (("kept", "10m"), ("started", "0s")):
        found = sorted(asyncio.run(rounds(keep, times)))
        print(
            f"{name:8} {times} rollbacks: p50 {statistics.median(found):.0f} ms, "
            f"least {found[0]:.0f}, most {found[-1]:.0f}"
        )


if __name__ == "__main__":
    main()

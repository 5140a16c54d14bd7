"""Do all spans arrive? A server that records every request, under load, through reloads and its end, with a real
collector: Arize's Phoenix, from an environment of its own (it needs 1 GB), which is asked afterwards what it has.

    python3 -m venv /tmp/phoenix && /tmp/phoenix/bin/pip install arize-phoenix
    python benchmarks/receivers.py --phoenix /tmp/phoenix/bin/phoenix [--reloads 5] [--rate 100]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gapless.core.world import RealWorld
from gapless.load import Load, LoadSpec, Summary
from gapless.server.admin.ask import ask

APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
START_S = 180.0
"""Phoenix migrates its database first."""
SETTLE_S = 60.0
QUERY = "{ projects { edges { node { name traceCount recordCount } } } }"


@contextmanager
def phoenix(program: Path, folder: Path) -> Iterator[str]:
    port, grpc = RealWorld().free_port("127.0.0.1"), RealWorld().free_port("127.0.0.1")
    own = {"PHOENIX_PORT": port, "PHOENIX_GRPC_PORT": grpc, "PHOENIX_HOST": "127.0.0.1", "PHOENIX_WORKING_DIR": folder}
    env = {**os.environ, **{name: str(value) for name, value in own.items()}, "PHOENIX_TELEMETRY_ENABLED": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(program), "serve"], env=env, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait(lambda: counted(url) >= 0, START_S, f"Phoenix to answer; see {folder / 'log'}")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def counted(url: str) -> int:
    """Spans that it has; -1 while it does not answer."""
    body = json.dumps({"query": QUERY}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
    except OSError:
        return -1
    return sum(edge["node"]["recordCount"] for edge in found["data"]["projects"]["edges"])


def wait(true: Any, limit_s: float, what: str) -> bool:
    end = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.5)
    return True


async def run(url: str, folder: Path, reloads: int, rate: float) -> Summary:
    (folder / "app.py").write_text(APP)
    port, admin = RealWorld().free_port("127.0.0.1"), str(folder / "a.sock")
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_TRACES_SAMPLER_ARG": "1"}
    argv = ["gapless", "serve", "app:app", "--bind", f"127.0.0.1:{port}", "--workers", "2", "--admin", f"unix:{admin}"]
    server = await asyncio.create_subprocess_exec(*argv, cwd=folder, env=env)
    while not Path(admin).exists() or ask(admin, "GET", "/readyz", 10.0).status != 200:
        await asyncio.sleep(0.1)
    stop = asyncio.Event()
    spec = LoadSpec(url=f"http://127.0.0.1:{port}/", rate=rate, for_s=3600.0, timeout_s=20.0)
    load = asyncio.ensure_future(Load(spec, RealWorld()).run(stop))
    for _ in range(reloads):
        await asyncio.sleep(3)
        await asyncio.to_thread(ask, admin, "POST", "/reload", 60.0)
    stop.set()
    summary = await load
    server.send_signal(signal.SIGTERM)
    await server.wait()
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phoenix", type=Path, required=True)
    parser.add_argument("--reloads", type=int, default=5)
    parser.add_argument("--rate", type=float, default=100.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="r-") as name:
        folder = Path(name)
        with phoenix(options.phoenix, folder) as url:
            summary = asyncio.run(run(url, folder, options.reloads, options.rate))
            end = time.monotonic() + SETTLE_S
            while (found := counted(url)) < summary.answered and time.monotonic() < end:
                time.sleep(0.5)
    share = found / summary.answered
    print(f"{summary.answered} answered, {summary.lost_total} lost; {found} spans arrived: {share:.4%}")
    raise SystemExit(share < 0.999 or summary.lost_total > 0)


if __name__ == "__main__":
    main()

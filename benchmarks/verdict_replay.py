"""How soon a rollback is begun with a real Envoy, real instances and a real load, and whom it hits.

    .venv/bin/python benchmarks/verdict_replay.py [--runs 10] [--errors 0.5]

`gapless up` runs a service; a load of 100 requests/s comes from 2,000 users; again and again a release is deployed that
answers a share of its requests with 500, and gets 5 % of the users. From the first request that it answered, as the
client saw it: the time until the rollback was decided, and until its last answer; the users who had met it by then.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

APP = """
import random

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    status = 500 if random.random() < {errors} else 200
    await send({{"type": "http.response.start", "status": status, "headers": []}})
    await send({{"type": "http.response.body", "body": b"{name}"}})
"""
FILE = """
system: replay
gateway: {{listen: "127.0.0.1:{port}"}}
services:
  web:
    app: web:app
    source: {source}
    instances: 2
    routes: [/]
    rollout: {{steps: [5%, 100%], hold: 10m, samples: 1000000, patience: 1h}}
"""
LIMIT_S = 120.0
SETTLE_S = 3.0


class System:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        (directory / "gapless.yaml").write_text(FILE.format(port=self.port, source=self.source("good", 0.005)))

    def source(self, name: str, errors: float) -> Path:
        path = self.directory / name
        path.mkdir(exist_ok=True)
        (path / "web.py").write_text(APP.format(errors=errors, name=name))
        return path

    def argv(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gapless", verb, *arguments, "--file", str(self.directory / "gapless.yaml")]

    def json(self, verb: str, *arguments: str) -> Any:
        done = subprocess.run(self.argv(verb, *arguments, "--json"), capture_output=True, text=True, timeout=LIMIT_S)
        return json.loads(done.stdout) if done.stdout else {}

    @contextmanager
    def up(self) -> Iterator[None]:
        with (self.directory / "up.log").open("wb") as log:
            process = subprocess.Popen(self.argv("up"), stdout=log, stderr=log)
        try:
            until(lambda: bool(self.json("status").get("ready")))
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(LIMIT_S)

    @contextmanager
    def load(self, log: Path) -> Iterator[None]:
        argv = [sys.executable, "-m", "gapless", "load", f"http://127.0.0.1:{self.port}/", "--rate", "100"]
        options = ["--connections", "16", "--for", "900s", "--users", "2000", "--log", str(log)]
        process = subprocess.Popen(argv + options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(log.exists)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(LIMIT_S)


def until(condition: Any) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it took too long; see up.log")
        time.sleep(0.1)


def measured(system: System, name: str, errors: float) -> dict[str, float]:
    """One bad release."""
    log = system.directory / f"{name}.jsonl"
    with system.load(log):
        time.sleep(SETTLE_S)
        system.json("deploy", "web", "--release", name, "--from", str(system.source(name, errors)))
        time.sleep(SETTLE_S)
    rollout = system.json("rollout", "web")
    assert rollout["state"] == "rolled back", rollout
    met = [r for r in map(json.loads, log.read_text().splitlines()) if r["release"] == name]
    answered = [r["due_at"] + r["latency_s"] for r in met]
    decided_at = rollout["decided_at"]
    until_then = [r for r, at in zip(met, answered, strict=True) if at <= decided_at]
    return {
        "decided_s": decided_at - min(answered),
        "last_answer_s": max(answered) - min(answered),
        "users_until_decided": len({r["user"] for r in until_then}),
        "users_in_all": len({r["user"] for r in met}),
        "errors_met": sum(bool(r["cause"]) for r in met),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--errors", type=float, nargs="+", default=[0.5], help="error rates of the bad releases")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="g-") as directory:
        system = System(Path(directory))
        with system.up():
            for errors in options.errors:
                runs = [measured(system, f"bad{errors:g}-{n}".replace(".", ""), errors) for n in range(options.runs)]
                print(f"\n{errors:.0%} errors, {options.runs} releases: median [least, most]")
                for key in runs[0]:
                    values = sorted(run[key] for run in runs)
                    print(
                        f"  {key:20} {statistics.median(values):6.1f} [{values[0]:.1f}, {values[-1]:.1f}]", flush=True
                    )


if __name__ == "__main__":
    main()

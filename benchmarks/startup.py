"""How long it takes to start: each against its limit and against an interpreter that does nothing more.

    python benchmarks/startup.py [rounds]

The limits hold in the quiet case, so the fastest round counts; the median shows how quiet it was.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 15
ROUNDS_UP = 3
PATIENCE_S = 60.0
SHOP = Path(__file__).parents[1] / "examples" / "shop" / "gapless.yaml"
PURCHASE = json.dumps({"item": "lamp", "quantity": 1})

CASES = {
    "import asyncio": ["-c", "import asyncio"],
    "import asyncio, gapless": ["-c", "import asyncio, gapless"],
    "gapless --help": ["-m", "gapless", "--help"],
}


def main() -> int:
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS):
        for name, argv in CASES.items():  # interleaved, so that a busy moment hits all of them
            taken[name].append(finished_ms(argv))
    taken["gapless up, first purchase"] = [first_purchase_ms() for _ in range(ROUNDS_UP)]
    for name, times in taken.items():
        print(f"{name:<28} fastest {min(times):7.1f} ms   median {statistics.median(times):7.1f} ms")
    fastest = {name: min(times) for name, times in taken.items()}
    judged = [
        judge("import gapless beyond asyncio", fastest["import asyncio, gapless"] - fastest["import asyncio"], 60),
        judge("gapless --help", fastest["gapless --help"], 250),
        judge("gapless up, first purchase", fastest["gapless up, first purchase"], 5_000),
    ]
    return 0 if all(judged) else 1


def judge(what: str, value: float, limit: float) -> bool:
    print(f"{'ok  ' if value <= limit else 'LATE'} {what}: {value:.1f} of {limit} ms ({value / limit:.2f})")
    return value <= limit


def finished_ms(argv: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def first_purchase_ms() -> float:
    """From the command to the first purchase answered, with an empty state directory: snapshots are made, too."""
    state, port = tempfile.mkdtemp(prefix="g-"), free_port()
    argv = ["-m", "gapless", "up", "--file", str(SHOP), "--state", state, "--listen", f"127.0.0.1:{port}"]
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *argv], stdout=subprocess.DEVNULL) as up:
        try:
            wait_for_purchase(port, up)
            return (time.perf_counter() - start) * 1000
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(PATIENCE_S)
            shutil.rmtree(state, ignore_errors=True)


def wait_for_purchase(port: int, up: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not purchased(port):
        if up.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"gapless up has not answered a purchase (exit status {up.returncode})")
        time.sleep(0.01)


def purchased(port: int) -> bool:
    headers = {"content-type": "application/json", "idempotency-key": "first", "x-user-id": "ada"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        try:
            connection.request("POST", "/orders", PURCHASE, headers)
            return connection.getresponse().status == http.client.CREATED
        except (OSError, http.client.HTTPException):
            return False  # not there yet


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())

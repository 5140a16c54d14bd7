"""How long it takes to start: each against its limit and against an interpreter that does nothing more.

    python benchmarks/startup.py [rounds]

The limits hold in the quiet case, so the fastest round counts; the median shows how quiet it was. Bytecode is cached,
as it is wherever pip has installed something.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 15
ROUNDS_SERVE = 10
ROUNDS_UP = 3
PATIENCE_S = 60.0
SHOP = Path(__file__).parents[1] / "examples" / "shop" / "gapless.yaml"
PURCHASE = json.dumps({"item": "lamp", "quantity": 1})

POLICIES = (
    "guard, deadline, fallback, cache, retry, hedge, breaker, rate, limit, adaptive, last, ratio, top, idempotent"
)
APP = """
import os

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b"%d" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
FIRST_ANSWER: dict[str, Callable[[int], list[str]]] = {
    "gapless serve": lambda port: ["-m", "gapless", "serve", "app:app", "--bind", f"127.0.0.1:{port}"],
    "uvicorn": lambda port: ["-m", "uvicorn", "app:app", "--port", str(port)],
}
CASES = {
    "import asyncio": ["-c", "import asyncio"],
    "import asyncio, gapless": ["-c", "import asyncio, gapless"],
    "import asyncio, every policy": ["-c", f"import asyncio\nfrom gapless import {POLICIES}"],
    "import asyncio, uvloop": ["-c", "import asyncio, uvloop"],
    "a worker's modules": ["-c", "import asyncio, uvloop, gapless.server.worker.serving, gapless.server.http.front"],
    "gapless --help": ["-m", "gapless", "--help"],
}


def main() -> int:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS):
        for name, argv in CASES.items():  # interleaved, so that a busy moment hits all of them
            taken[name].append(finished_ms(argv))
    answered = {name: [] for name in FIRST_ANSWER}
    for _ in range(ROUNDS_SERVE):
        for name in FIRST_ANSWER:
            answered[name].append(first_answer_ms(name))
    taken.update({f"{name}, first answer": times for name, times in answered.items()})
    replaced = [replaced_ms() for _ in range(ROUNDS_SERVE)]
    taken["reload, new code answers"] = [reload_ms for reload_ms, _ in replaced]
    taken["worker killed, next answer"] = [killed_ms for _, killed_ms in replaced]
    served = [served_ms() for _ in range(ROUNDS_SERVE)]
    taken["gapless serve, ready"] = [took_ms for took_ms, _ in served]
    taken["gapless up, first purchase"] = [first_purchase_ms() for _ in range(ROUNDS_UP)]
    for name, times in taken.items():
        print(f"{name:<28} fastest {min(times):7.1f} ms   median {statistics.median(times):7.1f} ms")
    fastest = {name: min(times) for name, times in taken.items()}
    judged = [
        judge("import gapless beyond asyncio", fastest["import asyncio, gapless"] - fastest["import asyncio"], 60),
        judge("every policy beyond asyncio", fastest["import asyncio, every policy"] - fastest["import asyncio"], 15),
        judge("gapless --help", fastest["gapless --help"], 250),
        judge("first answer, beside uvicorn's", ratio(answered), 2, "times"),
        judge("keeper's own memory", min(kib for _, kib in served) / 1024, 6, "MiB"),
        judge("gapless up, first purchase", fastest["gapless up, first purchase"], 5_000),
    ]
    return 0 if all(judged) else 1


def judge(what: str, value: float, limit: float, unit: str = "ms") -> bool:
    print(f"{'ok  ' if value <= limit else 'OVER'} {what}: {value:.1f} of {limit} {unit} ({value / limit:.2f})")
    return value <= limit


def finished_ms(argv: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def ratio(answered: dict[str, list[float]]) -> float:
    """Of the fastest rounds, ours to the other's."""
    ours, others = (min(times) for times in answered.values())
    return ours / others


def first_answer_ms(name: str) -> float:
    """From the command to the first answer to a client that tries again and again."""
    folder, port = app_folder(), free_port()
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *FIRST_ANSWER[name](port)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_for_answer(port, server)
            return (time.perf_counter() - start) * 1000
        finally:
            server.terminate()
            server.wait(PATIENCE_S)
            shutil.rmtree(folder, ignore_errors=True)


def app_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="g-"))
    (folder / "app.py").write_text(APP)
    return folder


def wait_for_answer(port: int, server: subprocess.Popen[bytes]) -> bytes:
    deadline = time.monotonic() + PATIENCE_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            if body := client.makefile("rb").read().partition(b"\r\n\r\n")[2]:
                return body
        time.sleep(0.001)
    raise SystemExit(f"{server.args} has not answered (exit status {server.returncode})")


def replaced_ms() -> tuple[float, float]:
    """From SIGHUP, and from the SIGKILL of the only worker, to the first answer of another worker."""
    folder, port = app_folder(), free_port()
    with subprocess.Popen(
        [sys.executable, *FIRST_ANSWER["gapless serve"](port)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            wait_for_answer(port, server)
            reload_ms = other_worker_ms(port, server, lambda pid: server.send_signal(signal.SIGHUP))
            return reload_ms, other_worker_ms(port, server, lambda pid: os.kill(pid, signal.SIGKILL))
        finally:
            server.terminate()
            server.wait(PATIENCE_S)
            shutil.rmtree(folder, ignore_errors=True)


def other_worker_ms(port: int, server: subprocess.Popen[bytes], begin: Callable[[int], None]) -> float:
    time.sleep(0.5)  # whoever was replaced before does not answer any more
    before = wait_for_answer(port, server)
    start = time.perf_counter()
    begin(int(before))
    while wait_for_answer(port, server) == before:
        time.sleep(0.001)
    return (time.perf_counter() - start) * 1000


def served_ms() -> tuple[float, int]:
    """From the command to "Serving ..." for an empty app; and what its keeper has in memory that is its own, in KiB."""
    folder = Path(tempfile.mkdtemp(prefix="g-"))
    (folder / "app.py").write_text("async def app(scope, receive, send): ...\n")
    argv = [sys.executable, "-m", "gapless", "serve", "app:app", "--bind", "127.0.0.1:0"]
    start = time.perf_counter()
    with subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout
            server.stdout.readline()
            took_ms = (time.perf_counter() - start) * 1000
            return took_ms, own_memory_kib(server.pid)
        finally:
            server.terminate()
            server.wait(PATIENCE_S)
            shutil.rmtree(folder, ignore_errors=True)


def own_memory_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


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

"""What a request costs in `gapless serve`, beside uvicorn, gunicorn (asgi) and granian in the same run.

    make peers; python benchmarks/serve.py [--workers 1 2] [--rounds 5] [--seconds 2] [--connections 32] [--only NAME]

All serve the same ASGI app; the load is `wrk` (Debian package wrk) over kept connections. Each round measures every
server once, one after the other, so that a busy moment hits all of them; each figure is the median of the rounds, and
the ratio to uvicorn is the median of the rounds' own ratios, with the lowest and the highest. CPU is user and system
time of all processes of the server from /proc, which a busy machine disturbs least.

Gapless does more per request than the others here: it counts and times each, gives it a deadline and an id, and says
who answered. "gapless, bare" would be unfair the other way round, and nobody can start it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

APP = """
import json

BIG = b"x" * 65536
DATA = {"id": 17, "name": "lamp", "price": 12.5, "tags": ["a", "b", "c"], "stock": {"here": 3, "there": 4}}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, kind = b"hello, world!", b"text/plain"
    if scope["path"] == "/json":
        body, kind = json.dumps(DATA).encode(), b"application/json"
    elif scope["path"] == "/big":
        body, kind = BIG, b"application/octet-stream"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
PATHS = {"plain text": "/", "JSON": "/json", "64 KiB": "/big"}
HEADERS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/json;q=0.9,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br",
    "X-Request-Id: 5c1a8c1b-7a0c-4f7e-8a53-0a4ad2d4f8c1",
)
"""What a gateway passes on of a browser's request."""
BASE = "uvicorn"
PATIENCE_S = 40.0
TICKS = os.sysconf("SC_CLK_TCK")
UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def python(*rest: str) -> list[str]:
    return [sys.executable, "-m", *rest]


SERVERS: dict[str, Callable[[int, int], list[str]]] = {
    "gapless": lambda port, workers: python(
        *("gapless", "serve", "app:app", "--bind", f"127.0.0.1:{port}", "--workers", str(workers)),
        *("--admin", "unix:a.sock"),
    ),
    "uvicorn": lambda port, workers: python(
        *("uvicorn", "app:app", "--port", str(port), "--workers", str(workers), "--http", "httptools"),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "warning"),
    ),
    "gunicorn": lambda port, workers: python(
        *("gunicorn", "app:app", "--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--worker-class", "asgi"),
        *("--log-level", "warning"),
    ),
    "granian": lambda port, workers: python(
        *("granian", "app:app", "--interface", "asgi", "--port", str(port), "--workers", str(workers)),
        *("--loop", "uvloop", "--log-level", "warning"),
    ),
}


class Figures(NamedTuple):
    rate: float
    p99_ms: float
    cpu_us: float
    kernel_us: float
    """Of those, in the kernel: reading, writing, waiting for readiness."""


class Server:
    """One that serves until `stop`."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="g-"))
        (self.folder / "app.py").write_text(APP)
        with (self.folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                SERVERS[name](self.port, workers),
                cwd=self.folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
            )

    def wait_ready(self) -> None:
        limit = time.monotonic() + PATIENCE_S
        while not answers(self.port):
            if self.process.poll() is not None or time.monotonic() > limit:
                raise SystemExit(f"{self.name} does not serve: {(self.folder / 'out').read_text()[-2000:]}")
            time.sleep(0.05)
        time.sleep(1.0)  # all of its workers

    def cpu_s(self) -> tuple[float, float]:
        """Of all its processes: user and system."""
        user, system = zip(*(cpu_of(pid) for pid in session(self.process.pid)), strict=True)
        return sum(user), sum(system)

    def stop(self) -> None:
        pids = session(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            self.process.wait(10.0)
        shutil.rmtree(self.folder, ignore_errors=True)


def measure(server: Server, path: str, seconds: int, connections: int) -> Figures:
    before = server.cpu_s()
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        f"http://127.0.0.1:{server.port}{path}",
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    requests, duration = re.search(r"(\d+) requests in ([\d.]+)s", said).groups()  # type: ignore[union-attr]
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()  # type: ignore[union-attr]
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{server.name} fails: {said}")
    user, system = ((after - was) / int(requests) * 1e6 for after, was in zip(server.cpu_s(), before, strict=True))
    return Figures(int(requests) / float(duration), float(value) * UNITS_MS[unit], user + system, system)


def session(leader: int) -> list[int]:
    """The living processes that a server started, and itself."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            found.append(int(name))
    return found


def cpu_of(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return sock.recv(15).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compare(names: list[str], workers: int, options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        servers = [Server(name, workers) for name in names]
        for server in servers:
            stack.callback(server.stop)
        for server in servers:
            server.wait_ready()
            measure(server, "/", 1, options.connections)  # nobody is measured cold
        for kind, path in PATHS.items():
            rounds = [
                {
                    server.name: measure(server, path, options.seconds, options.connections)
                    for server in turned(servers, at)
                }
                for at in range(options.rounds)
            ]
            report(f"{kind}, {workers} worker{'s' if workers > 1 else ''}", rounds)


def turned(servers: list[Server], at: int) -> list[Server]:
    """Each round begins with another one: a machine that gets busier must not hurt always the same."""
    at %= len(servers)
    return servers[at:] + servers[:at]


def report(title: str, rounds: list[dict[str, Figures]]) -> None:
    print(
        f"\n{title:<22}{'requests/s':>12}{'p99 ms':>9}{'CPU µs':>9}{'kernel':>8}   throughput and CPU, times {BASE}'s"
    )
    for name in sorted(rounds[0], key=list(SERVERS).index):
        columns = zip(*(one[name] for one in rounds), strict=True)
        rate, p99_ms, cpu_us, kernel_us = map(statistics.median, columns)
        faster = spread([one[name].rate / one[BASE].rate for one in rounds])
        cheaper = spread([one[name].cpu_us / one[BASE].cpu_us for one in rounds])
        print(f"  {name:<20}{rate:>12,.0f}{p99_ms:>9.2f}{cpu_us:>9.1f}{kernel_us:>8.1f}   {faster}   {cheaper}")


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument(
        "--only", nargs="+", choices=list(SERVERS), default=list(SERVERS), help=f"{BASE} is always there"
    )
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("there is no wrk: install the Debian package wrk")
    names = [name for name in SERVERS if name in options.only or name == BASE]
    for workers in options.workers:
        compare(names, workers, options)


if __name__ == "__main__":
    main()

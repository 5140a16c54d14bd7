"""The registry under load: `gapless registry` as a process, asked over loopback by others.

    make peers; python benchmarks/registry.py [--quick] [--grow] [--instances 10000] [--dir .]

Prints rates, with the time that a client waits and the time that the registry computes for each request; ratios to a
bare aiohttp handler, which reads a body of JSON and does nothing with it, measured in the same run; memory; how changes
reach those who watch; and how soon the registry is back after a kill. `--grow` goes on to 100,000 instances.

Targets, on two quiet cores: registrations 4,000/s (p99 30 ms), TTL passes 8,000/s, KV put 4,000/s and get 8,000/s;
10,000 watchers in 100 MB; 10,000 instances in 80 MB; a change reaches 10 of 1,000 watchers within 10 ms (p99), and
nobody else; back within 1 s.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_client import Rate, drive, hold, request, spread

CONNECTIONS = 32
SPAWN = multiprocessing.get_context("spawn")
BARE = """
import sys
from aiohttp import web

async def handle(request):
    await request.json()
    return web.Response()

app = web.Application()
app.router.add_put("/{rest:.*}", handle)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
"""


class Server:
    """A process that listens on `port`."""

    def __init__(self, argv: list[str], port: int) -> None:
        self.port = port
        began = time.perf_counter()
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        while not self._answers():
            if self.process.poll() is not None:
                raise SystemExit(f"it ended at its start: {' '.join(argv)}")
            time.sleep(0.01)
        self.ready_s = time.perf_counter() - began

    def _answers(self) -> bool:
        try:
            self.get("/v1/status/leader")
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def get(self, path: str) -> tuple[Any, int]:
        """The JSON and the index."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.load(answer), int(answer.headers.get("x-consul-index", 0))

    def memory_mb(self) -> float:
        """What is resident. A moment is given for what is only on its way."""
        time.sleep(0.5)
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def computed_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def registry(store: Path, port: int = 0) -> Server:
    port = port or free_port()
    return Server(command(store, port), port)


def command(store: Path, port: int) -> list[str]:
    argv = [sys.executable, "-m", "gapless", "registry", "--store", f"sqlite:{store}", "--http", f"127.0.0.1:{port}"]
    return [*argv, "--node", "here"]


def bare() -> Server:
    port = free_port()
    return Server([sys.executable, "-c", BARE, str(port)], port)


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(function, *arguments).result()


def service_of(number: int) -> str:
    """Ten instances each."""
    return f"service-{number // 10}"


def registration(number: int) -> bytes:
    return request(
        "PUT",
        "/v1/agent/service/register",
        {
            "Name": service_of(number),
            "ID": f"instance-{number}",
            "Tags": ["v1", "blue"],
            "Address": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            "Port": 8000 + number % 1000,
            "Meta": {"version": "1.4.0", "zone": f"zone-{number % 3}"},
            "Check": {"TTL": "60m", "Status": "passing"},
        },
    )


def status(number: int, verb: str) -> bytes:
    return request("PUT", f"/v1/agent/check/{verb}/service:instance-{number}")


class Report:
    """Prints, and remembers the bare handler's rate."""

    def __init__(self) -> None:
        self._bare = 0.0

    def rate(self, what: str, server: Server, requests: list[bytes], target: int = 0, repeat: int = 1) -> None:
        before = server.computed_s()
        found: Rate = in_child(drive, server.port, requests * repeat, CONNECTIONS)
        cpu_us = (server.computed_s() - before) / (len(requests) * repeat) * 1e6
        self._bare = self._bare or found.per_s
        ratio, wanted = found.per_s / self._bare, f", target {target:,}" if target else ""
        print(
            f"{what:<24} {found.per_s:>8,.0f}/s{wanted}; {ratio:.2f} of bare aiohttp's; waits p50 {found.p50_ms:.1f} "
            f"p99 {found.p99_ms:.1f} ms; computes {cpu_us:.0f} µs",
            flush=True,
        )

    def line(self, what: str, text: str) -> None:
        print(f"{what:<24} {text}", flush=True)


@contextmanager
def holding(server: Server, count: int, services: int) -> Iterator[None]:
    """So many watchers, evenly over the services."""
    paths = [f"/v1/health/service/service-{number % services}" for number in range(count)]
    held, release = SPAWN.Event(), SPAWN.Event()
    child = SPAWN.Process(target=hold, args=(server.port, paths, held, release))
    child.start()
    while not held.wait(1):
        if not child.is_alive():
            raise SystemExit("the watchers have ended")
    try:
        yield
    finally:
        release.set()
        child.join()


def rates(report: Report, server: Server, instances: int, count: int) -> None:
    empty_mb = server.memory_mb()
    report.rate("registrations", server, [registration(number) for number in range(instances)], 4_000)
    full_mb = server.memory_mb()
    report.line(
        "memory", f"{full_mb:.0f} MB with {instances:,} instances (target 80 for 10,000), {empty_mb:.0f} without"
    )
    report.rate("TTL passes", server, [status(number, "pass") for number in range(instances)], 8_000)
    keys = [f"/v1/kv/settings/key-{number}" for number in range(count)]
    report.rate("KV put", server, [request("PUT", key, {"colour": "blue"}) for key in keys], 4_000)
    report.rate("KV get", server, [request("GET", key) for key in keys], 8_000)
    services = [
        request("GET", f"/v1/health/service/{service_of(number)}?passing") for number in range(0, instances, 10)
    ]
    report.rate("health of a service", server, services, repeat=max(count // len(services), 1))


def watching(report: Report, server: Server, instances: int, watchers: int, changes: int) -> None:
    services = instances // 10
    watched = min(services, 100)
    paths = [f"/v1/health/service/service-{number % watched}" for number in range(watched * 10)]
    made = []
    for number in range(changes):
        service = number % watched
        verb = "fail" if number // watched % 2 == 0 else "pass"
        made.append((f"/v1/health/service/service-{service}", status(service * 10, verb)))
    found = in_child(spread, server.port, paths, made)
    report.line(
        "a change arrives",
        f"p50 {found.p50_ms:.1f}, p99 {found.p99_ms:.1f} ms (target 10) at 10 of {len(paths):,} watchers, "
        f"{changes} changes; {found.spurious} woken in vain",
    )
    before_mb = server.memory_mb()
    with holding(server, watchers, services):
        held_mb = server.memory_mb() - before_mb
        each_kb = held_mb * 1024 / watchers
        report.line(
            "watchers held", f"{held_mb:.0f} MB for {watchers:,} (target 100 for 10,000), {each_kb:.1f} KB each"
        )


def killed(report: Report, server: Server, store: Path, instances: int) -> Server:
    path = f"/v1/health/service/{service_of(instances - 1)}"
    _, before = server.get(path)
    server.end(signal.SIGKILL)
    after = registry(store, server.port)
    found, index = after.get(path)
    regressed = "" if index >= before else f", BUT THE INDEX WENT BACK FROM {before} TO {index}"
    report.line("killed", f"back after {after.ready_s:.2f} s (target 1), {len(found)} of 10 instances{regressed}")
    return after


def grown(report: Report, server: Server, instances: int) -> None:
    for until in (25_000, 50_000, 100_000):
        report.rate(f"up to {until:,}", server, [registration(number) for number in range(instances, until)])
        report.line("memory", f"{server.memory_mb():.0f} MB with {until:,} instances")
        instances = until


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: whether it works, not how well")
    parser.add_argument("--grow", action="store_true", help="go on to 100,000 instances")
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--dir", type=Path, default=Path(), help="the disk that is written to")
    given = parser.parse_args()
    share = 10 if given.quick else 1
    instances = given.instances // share
    report = Report()
    peer = bare()
    report.rate("bare aiohttp", peer, [registration(number) for number in range(10_000 // share)])
    peer.end()
    with tempfile.TemporaryDirectory(dir=given.dir, prefix="bench-") as folder:
        store = Path(folder) / "registry.db"
        server = registry(store)
        try:
            rates(report, server, instances, 10_000 // share)
            watching(report, server, instances, 10_000 // share, 200 // share)
            server = killed(report, server, store, instances)
            if given.grow:
                grown(report, server, instances)
        finally:
            server.end()


if __name__ == "__main__":
    main()

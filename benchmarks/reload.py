"""What clients notice of ten reloads: `gapless serve` beside uvicorn, in the same run, under the same open-loop load.

    python benchmarks/reload.py [--rate 300] [--connections 32] [--reloads 10] [--every 3] [--round-trip-ms 0 10]

Both run two workers of an app that takes 0.5 s to import and 0 … 20 ms to answer. The client retries nothing and counts
latency from the moment when a request was due; a round trip is added by a relay between client and server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gapless.core.world import RealWorld
from gapless.load import Load, LoadSpec, Record
from gapless.server.ask import ask

APP = """
import asyncio, random, time
time.sleep(0.5)

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await asyncio.sleep(random.random() * 0.02)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
QUIET_S = 5.0
"""How long the load runs before the first reload, for the comparison."""
SETTLE_S = 2.0
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    argv: Callable[[int], list[str]]
    reload: Callable[[subprocess.Popen[bytes], Path], None]


def reload_by_admin(process: subprocess.Popen[bytes], folder: Path) -> None:
    said = ask(str(folder / "a.sock"), "POST", "/reload", 60.0)
    if said.status != 200:
        raise SystemExit(f"the reload was refused: {said.body}")


def reload_by_hup(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.send_signal(signal.SIGHUP)


SERVERS = (
    Server(
        "gapless",
        lambda port: [
            *(sys.executable, "-m", "gapless", "serve", "app:app", "--bind", f"127.0.0.1:{port}"),
            *("--workers", str(WORKERS), "--admin", "unix:a.sock"),
        ],
        reload_by_admin,
    ),
    Server(
        "uvicorn HUP",
        lambda port: [
            *(sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--workers", str(WORKERS)),
            *("--no-access-log", "--log-level", "warning"),
        ],
        reload_by_hup,
    ),
)


class Relay:
    """Passes bytes on `delay_s` later, in order; the end of a connection takes as long as a byte."""

    def __init__(self, port: int, delay_s: float) -> None:
        self._port = port
        self._delay_s = delay_s
        self._pipes: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pipe = asyncio.ensure_future(self._pass_on(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await source.read(65_536):
                loop.call_later(self._delay_s, _write, sink, data)
        except OSError:
            loop.call_later(self._delay_s, sink.transport.abort)
            return
        loop.call_later(self._delay_s, sink.close)


def _write(sink: asyncio.StreamWriter, data: bytes) -> None:
    if not sink.transport.is_closing():
        sink.write(data)


@dataclass(frozen=True, slots=True)
class Result:
    server: str
    round_trip_ms: float
    requests: int
    lost: Counter[str]
    quiet_p99_ms: float
    p99_ms: float
    max_ms: float


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


async def measure(server: Server, options: argparse.Namespace, round_trip_ms: float) -> Result:
    folder = Path(tempfile.mkdtemp(prefix="g-"))
    (folder / "app.py").write_text(APP)
    port = RealWorld().free_port("127.0.0.1")
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(server.argv(port), cwd=folder, stdout=log, stderr=log, start_new_session=True)
    relay = Relay(port, round_trip_ms / 2000)
    try:
        await ready(port)
        target = await relay.start() if round_trip_ms else port
        records, began, ended = await loaded(server, process, folder, target, options)
    finally:
        await relay.stop() if round_trip_ms else None
        process.terminate()
        await asyncio.to_thread(process.wait, 60)
        shutil.rmtree(folder, ignore_errors=True)
    quiet = [record.latency_s * 1000 for record in records if record.due_at < began and not record.cause]
    during = [record.latency_s * 1000 for record in records if began <= record.due_at < ended and not record.cause]
    lost = Counter(record.cause for record in records if record.cause)
    return Result(
        server.name,
        round_trip_ms,
        len(records),
        lost,
        percentile(quiet, 0.99),
        percentile(during, 0.99),
        max(during, default=float("nan")),
    )


async def ready(port: int) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        await asyncio.sleep(SETTLE_S)
        return
    raise SystemExit("the server did not start")


async def loaded(
    server: Server, process: subprocess.Popen[bytes], folder: Path, port: int, options: argparse.Namespace
) -> tuple[list[Record], float, float]:
    """All requests, and between which moments the reloads happened."""
    records: list[Record] = []
    for_s = QUIET_S + options.reloads * options.every + SETTLE_S
    spec = LoadSpec(
        url=f"http://127.0.0.1:{port}/", rate=options.rate, connections=options.connections, for_s=for_s, timeout_s=10.0
    )
    load = asyncio.ensure_future(Load(spec, RealWorld(), records.append).run())
    await asyncio.sleep(QUIET_S)
    began = time.time()
    for _ in range(options.reloads):
        due = asyncio.get_running_loop().time() + options.every
        await asyncio.to_thread(server.reload, process, folder)
        await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0))
    ended = time.time()
    await load
    return records, began, ended


async def fork_after_crash_ms() -> float:
    """From SIGKILL on a worker to its successor's process, the median of five."""
    folder = Path(tempfile.mkdtemp(prefix="g-"))
    (folder / "app.py").write_text(APP)
    port = RealWorld().free_port("127.0.0.1")
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(SERVERS[0].argv(port), cwd=folder, stdout=log, stderr=log, start_new_session=True)
    took = []
    try:
        await ready(port)
        for _ in range(5):
            pids = workers(folder)
            os.kill(pids[0], signal.SIGKILL)
            killed = time.perf_counter()
            while not (children(process.pid) - set(pids)):
                await asyncio.sleep(0)
            took.append((time.perf_counter() - killed) * 1000)
            while len(workers(folder)) < WORKERS or pids[0] in workers(folder):
                await asyncio.sleep(0.05)
            await asyncio.sleep(11)  # a worker that has served for 10 s begins a new series
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)
        shutil.rmtree(folder, ignore_errors=True)
    return percentile(took, 0.5)


def workers(folder: Path) -> list[int]:
    found = ask(str(folder / "a.sock"), "GET", "/status", 10.0).body["workers"]
    return [worker["pid"] for worker in found if worker["phase"] == "serving"]


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def show(results: Sequence[Result], fork_ms: float) -> None:
    print(f"{'server':<13}{'round trip':>11}{'requests':>10}{'lost':>7}{'p99 before':>12}{'during':>12}{'max':>10}")
    for result in results:
        causes = ", ".join(f"{count} {cause}" for cause, count in result.lost.most_common()) or "-"
        print(
            f"{result.server:<13}{result.round_trip_ms:>8.0f} ms{result.requests:>10}{result.lost.total():>7}"
            f"{result.quiet_p99_ms:>9.1f} ms{result.p99_ms:>9.1f} ms{result.max_ms:>7.0f} ms  {causes}"
        )
    print()
    for ours in (result for result in results if result.server == SERVERS[0].name):
        for other in results:
            if other.server != ours.server and other.round_trip_ms == ours.round_trip_ms:
                print(
                    f"{ours.server} : {other.server} at {ours.round_trip_ms:.0f} ms: "
                    f"lost {ours.lost.total()} : {other.lost.total()}, "
                    f"p99 during {ours.p99_ms / other.p99_ms:.2f}, max {ours.max_ms / other.max_ms:.2f}"
                )
    print(f"\nSIGKILL of a worker → its successor forked: {fork_ms:.1f} ms (median of 5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--reloads", type=int, default=10)
    parser.add_argument("--every", type=float, default=3.0)
    parser.add_argument("--round-trip-ms", type=float, nargs="*", default=[0.0, 10.0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = [asyncio.run(measure(server, options, trip)) for trip in options.round_trip_ms for server in SERVERS]
    show(results, asyncio.run(fork_after_crash_ms()))
    if options.json:
        found = [{name: getattr(result, name) for name in Result.__slots__} for result in results]
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

"""What clients notice of reloads: ours beside gunicorn, uvicorn, granian, hypercorn and nginx in the same run.

    make peers; apt-get install nginx-light
    .venv/bin/python benchmarks/reload.py [--our-reloads 200] [--reloads 20] [--round-trip 0,10,50] [--only gapless …]

Open loop at a fixed rate on keep-alive connections: nothing is retried, and latency counts from the moment when a
request was due. A round trip is added by a relay between client and server, so that a close crosses a request on its
way as it does between machines ("race": a request on a kept connection that was closed just then; "other": any other
loss). Two workers of an app that takes 0.5 s to import and 0 … 20 ms to answer; nginx answers by itself, at once.
"closed": connections that the client had to open beyond its first ones. Afterwards the hand-over of many idle
connections, and a worker killed. On a busy machine compare only what was measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gapless.core.world import RealWorld
from gapless.load import Cause, Load, LoadSpec, Record
from reload_servers import SERVERS, WORKERS, Running, Server

QUIET_S = 8.0
"""How long the load runs before the first reload, for the comparison."""
SETTLE_S = 2.0
SLICES = 5
"""The time of the reloads is divided into so many parts, to tell how much the p99 varies."""


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


@dataclass(slots=True)
class Result:
    server: str
    round_trip_ms: float
    reloads: int
    requests: int
    race: int
    other: int
    closed: int
    quiet_p99_ms: float
    p99_ms: float
    p99_low_ms: float
    p99_high_ms: float
    max_ms: float
    quiet_max_ms: float
    serving_ms: list[float] = field(default_factory=list)
    """From PREPARED to SERVING, of each reload."""


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def is_race(record: Record) -> bool:
    return record.reused and record.cause == Cause.RESET and "before" in record.detail


def judged(server: Server, trip_ms: float, stages: list[dict[str, float]], run: Run) -> Result:
    good = [record for record in run.records if not record.cause]
    quiet = [record.latency_s * 1000 for record in good if record.due_at < run.began]
    during = [record for record in good if run.began <= record.due_at < run.ended]
    length = (run.ended - run.began) / SLICES
    slices: list[list[float]] = [[] for _ in range(SLICES)]
    for record in during:
        slices[min(int((record.due_at - run.began) / length), SLICES - 1)].append(record.latency_s * 1000)
    tails = [percentile(part, 0.99) for part in slices]
    lost = [record for record in run.records if record.cause]
    return Result(
        server=server.name,
        round_trip_ms=trip_ms,
        reloads=len(stages),
        requests=len(run.records),
        race=sum(map(is_race, lost)),
        other=len(lost) - sum(map(is_race, lost)),
        closed=max(sum(not record.reused for record in run.records) - run.connections, 0),
        quiet_p99_ms=percentile(quiet, 0.99),
        p99_ms=percentile([record.latency_s * 1000 for record in during], 0.99),
        p99_low_ms=min(tails),
        p99_high_ms=max(tails),
        max_ms=max((record.latency_s * 1000 for record in during), default=float("nan")),
        quiet_max_ms=max(quiet, default=float("nan")),
        serving_ms=[stage["serving"] * 1000 for stage in stages if "serving" in stage],
    )


@dataclass(slots=True)
class Run:
    """All requests, and between which moments the reloads happened."""

    connections: int
    records: list[Record] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0


async def measure(server: Server, options: argparse.Namespace, trip_ms: float) -> Result:
    folder = Path(tempfile.mkdtemp(prefix="g-"))
    running = Running(server, folder, RealWorld().free_port("127.0.0.1"))
    relay = Relay(running.port, trip_ms / 2000)
    reloads = options.our_reloads if server is SERVERS[0] else options.reloads
    try:
        await ready(running.port)
        target = await relay.start() if trip_ms else running.port
        run, stages = await loaded(running, target, reloads, options)
    finally:
        if trip_ms:
            await relay.stop()
        await asyncio.to_thread(running.end)
        shutil.rmtree(folder, ignore_errors=True)
    return judged(server, trip_ms, stages, run)


async def ready(port: int) -> None:
    for _ in range(600):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if answer.startswith(b"HTTP/1.1 200"):
            await asyncio.sleep(SETTLE_S)
            return
    raise SystemExit("the server did not start")


async def loaded(
    running: Running, port: int, reloads: int, options: argparse.Namespace
) -> tuple[Run, list[dict[str, float]]]:
    run, stop = Run(options.connections), asyncio.Event()
    spec = LoadSpec(
        url=f"http://127.0.0.1:{port}/", rate=options.rate, connections=options.connections, for_s=86_400, timeout_s=10
    )
    load = asyncio.ensure_future(Load(spec, RealWorld(), run.records.append).run(stop))
    await asyncio.sleep(QUIET_S)
    run.began = time.time()
    stages = []
    for _ in range(reloads):
        due = time.monotonic() + options.every
        stages.append(await asyncio.to_thread(running.server.reload, running))
        await asyncio.sleep(max(due - time.monotonic(), 0))
    await asyncio.sleep(SETTLE_S)
    run.ended = time.time()
    stop.set()
    await load
    return run, stages


# What only ours can.


async def idle_handed_over(count: int) -> tuple[float, float]:
    """Seconds from the answer of a reload until so many idle connections are with the new workers; and the longest
    that a request took meanwhile, in milliseconds."""
    folder = Path(tempfile.mkdtemp(prefix="g-"))
    running = Running(SERVERS[0], folder, RealWorld().free_port("127.0.0.1"))
    writers: list[asyncio.StreamWriter] = []
    records: list[Record] = []
    stop = asyncio.Event()
    try:
        await ready(running.port)
        writers.extend([(await asyncio.open_connection("127.0.0.1", running.port))[1] for _ in range(count)])
        while sum(worker["connections"] for worker in workers(running)) < count:
            await asyncio.sleep(0.1)
        spec = LoadSpec(url=f"http://127.0.0.1:{running.port}/", rate=200, connections=32, for_s=600, timeout_s=10)
        load = asyncio.ensure_future(Load(spec, RealWorld(), records.append).run(stop))
        await asyncio.sleep(1)
        old = {worker["pid"] for worker in workers(running)}
        await asyncio.to_thread(running.server.reload, running)
        began = time.perf_counter()
        while any(Path(f"/proc/{pid}").exists() for pid in old):
            await asyncio.sleep(0.005)
        took = time.perf_counter() - began
        stop.set()
        await load
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.to_thread(running.end)
        shutil.rmtree(folder, ignore_errors=True)
    if any(record.cause for record in records):
        raise SystemExit("requests were lost")
    return took, max(record.latency_s for record in records) * 1000


async def fork_after_crash_ms() -> float:
    """From SIGKILL on a worker to its successor's process, the median of five."""
    folder = Path(tempfile.mkdtemp(prefix="g-"))
    running = Running(SERVERS[0], folder, RealWorld().free_port("127.0.0.1"))
    took = []
    try:
        await ready(running.port)
        for _ in range(5):
            pids = [worker["pid"] for worker in workers(running)]
            parent = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(pids[0], signal.SIGKILL)
            killed = time.perf_counter()
            while not (children(parent) - set(pids)):
                await asyncio.sleep(0)
            took.append((time.perf_counter() - killed) * 1000)
            while len(now := [worker["pid"] for worker in workers(running)]) < WORKERS or pids[0] in now:
                await asyncio.sleep(0.05)
            await asyncio.sleep(11)  # a worker that has served for 10 s begins a new series
    finally:
        await asyncio.to_thread(running.end)
        shutil.rmtree(folder, ignore_errors=True)
    return percentile(took, 0.5)


def workers(running: Running) -> list[dict[str, int]]:
    found = running.admin("GET", "/status")["workers"]
    return [worker for worker in found if worker["phase"] == "serving"]


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def show_header() -> None:
    print(
        f"{'server':<15}{'trip':>6}{'reloads':>9}{'requests':>10}{'race':>7}{'other':>7}{'closed':>8}"
        f"{'p99 before':>12}{'during':>9}{'(spread)':>16}{'max':>9}{'before':>9}"
    )


def show(result: Result) -> None:
    spread = f"({result.p99_low_ms:.1f} … {result.p99_high_ms:.1f})"
    print(
        f"{result.server:<15}{result.round_trip_ms:>3.0f} ms{result.reloads:>9}{result.requests:>10}"
        f"{result.race:>7}{result.other:>7}{result.closed:>8}{result.quiet_p99_ms:>9.1f} ms{result.p99_ms:>6.1f} ms"
        f"{spread:>16}{result.max_ms:>6.0f} ms{result.quiet_max_ms:>6.0f} ms",
        flush=True,
    )


def compare(results: Sequence[Result]) -> None:
    print("\nlost and closed per reload; p99 during : before")
    for result in results:
        lost = (result.race + result.other) / result.reloads
        ratio = result.p99_ms / result.quiet_p99_ms
        print(
            f"{result.server:<15}{result.round_trip_ms:>3.0f} ms{lost:>9.2f}{result.closed / result.reloads:>9.2f}"
            f"{ratio:>9.2f}"
        )
    if serving := [took for result in results for took in result.serving_ms]:
        tail = percentile(serving, 0.99)
        print(
            f"\nPREPARED → SERVING: median {statistics.median(serving):.1f} ms, p99 {tail:.1f} ms, {max(serving):.1f}"
        )


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--reloads", type=int, default=20, help="of each peer")
    parser.add_argument("--our-reloads", type=int, default=200)
    parser.add_argument("--every", type=float, default=3.0, help="seconds from one reload to the next, at least")
    parser.add_argument("--round-trip", default="0,10,50", help="milliseconds, separated by commas")
    parser.add_argument("--only", nargs="*", default=[], help="names of servers, as the table shows them")
    parser.add_argument("--idle", type=int, default=8_000, help="idle connections to hand over; 0 to leave it out")
    parser.add_argument("--no-crash", action="store_true", help="leave the killed worker out")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = options_of()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trips = [float(text) for text in options.round_trip.split(",") if text]
    chosen = [server for server in SERVERS if not options.only or server.name in options.only]
    results = []
    show_header()
    for trip in trips:
        for server in chosen:
            results.append(asyncio.run(measure(server, options, trip)))
            show(results[-1])
    compare(results)
    if options.idle and SERVERS[0] in chosen:
        took_s, longest_ms = asyncio.run(idle_handed_over(options.idle))
        print(f"{options.idle} idle connections handed over in {took_s:.2f} s, longest request {longest_ms:.0f} ms")
    if not options.no_crash and SERVERS[0] in chosen:
        print(f"SIGKILL of a worker → its successor forked: {asyncio.run(fork_after_crash_ms()):.1f} ms (median of 5)")
    if options.json:
        found = [{name: getattr(result, name) for name in Result.__slots__} for result in results]
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

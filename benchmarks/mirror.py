"""What mirroring costs the users' requests: latency as a client sees it, and Envoy's CPU time.

    .venv/bin/python benchmarks/mirror.py [--rate 200] [--for 4] [--rounds 5]

A real Envoy in front of a cheap upstream process, asked on an open-loop schedule. Rounds without a mirror, with 10 %
and with 100 % follow each other, so that a busy machine hits all alike; the comparer and both releases run beside.
"hanging": all of the requests are mirrored to a shadow that never answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gapless.control.gates.comparer import start_comparer
from gapless.control.gates.scene import Scene
from gapless.core.model import BUCKETS, Address, Endpoint, Entrance, Route, RouteTable, ServiceTable, Split
from gapless.core.model.mirror import MirrorPlan, MirrorTarget
from gapless.core.world import RealWorld
from gapless.gateway.envoy import EnvoyGateway
from gapless.load.run import Load
from gapless.load.spec import LoadSpec

HOST = "127.0.0.1"
UPSTREAM = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            if sys.argv[1] == "hang":
                await asyncio.sleep(600)
            head = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: 12\\r\\n\\r\\n"
            writer.write(head + b'{"total": 3}')
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
TICKS = os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def upstream(kind: str) -> AsyncIterator[Address]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", UPSTREAM, kind, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout
        yield Address(host=HOST, port=int(await process.stdout.readline()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def table(stable: Address, mirror: MirrorTarget | None, version: int) -> RouteTable:
    service = ServiceTable(
        service="orders",
        split=Split(service="orders", stable="1", weights=(("1", BUCKETS),)),
        endpoints=(Endpoint(instance="a", release="1", address=stable),),
        routes=(Route(path="/"),),
        mirror=mirror,
    )
    return RouteTable(version=version, services=(service,))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def measure(gateway: EnvoyGateway, port: int, rate: float, for_s: float) -> tuple[float, float, float, int]:
    """p50 and p99 in ms, Envoy's CPU per request in µs, requests lost."""
    before = cpu_s(gateway.pid)
    spec = LoadSpec(url=f"http://{HOST}:{port}/", rate=rate, for_s=for_s, connections=16)
    found = await Load(spec, RealWorld()).run()
    used = cpu_s(gateway.pid) - before
    return found.p50_s * 1e3, found.p99_s * 1e3, used / found.requests * 1e6, found.lost_total


async def main(arguments: argparse.Namespace) -> None:
    state, world = Path(tempfile.mkdtemp(prefix="g-")), RealWorld()
    port = world.free_port(HOST)
    gateway = EnvoyGateway(Entrance(listen=Address(host=HOST, port=port)), state, world, workers=1)
    scene = Scene(service="orders", release="2", base=state, scratch=state, mark=f"{state}:bench;")
    async with upstream("ok") as stable, upstream("ok") as fresh, upstream("hang") as hanging:
        comparer = await start_comparer(MirrorPlan(new=(fresh,), stable=(stable,)), scene, world)
        try:
            await gateway.start()
            assert comparer.address
            kinds = {
                "no mirror": None,
                "mirror 10 %": MirrorTarget(address=comparer.address, share=1_000),
                "mirror 100 %": MirrorTarget(address=comparer.address, share=10_000),
                "hanging 100 %": MirrorTarget(address=hanging, share=10_000),
            }
            await rounds(arguments, gateway, port, stable, kinds)
            tally = comparer.tally
            print(
                f"compared {tally.compared} of {tally.asked}, {tally.dropped} dropped, {tally.different} different",
                *tally.examples,
                sep="\n  ",
            )
        finally:
            await gateway.stop(drain_s=1)
            await comparer.stop()
            shutil.rmtree(state)


async def rounds(
    arguments: argparse.Namespace,
    gateway: EnvoyGateway,
    port: int,
    stable: Address,
    kinds: dict[str, MirrorTarget | None],
) -> None:
    seen: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in kinds}
    version = 0
    for _ in range(arguments.rounds):
        for name, mirror in kinds.items():
            version += 1
            await gateway.apply(table(stable, mirror, version))
            seen[name].append(await measure(gateway, port, arguments.rate, arguments.length))
    print(f"{arguments.rounds} rounds of {arguments.length:g} s at {arguments.rate:g}/s; median (min … max)")
    print(f"{'':<15}{'p50 ms':>24}{'p99 ms':>24}{'Envoy CPU µs':>26}{'ratio':>8}{'lost':>6}")
    base = statistics.median(cpu for _, _, cpu, _ in seen["no mirror"])
    for name, found in seen.items():
        p50, p99, cpu, lost = (list(column) for column in zip(*found, strict=True))
        ratio = statistics.median(cpu) / base
        print(f"{name:<15}{spread(p50):>24}{spread(p99):>24}{spread(cpu):>26}{ratio:>8.2f}{sum(lost):>6}")


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--for", dest="length", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args()))

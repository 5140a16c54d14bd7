"""The gateway: how soon a weight acts, what a table of 200 services costs, and what an access-log entry costs.

    .venv/bin/python benchmarks/gateway.py [--services 200] [--changes 60]

A real Envoy in front of two upstream servers. The first table counts from the call of `apply` to the first response
that obeys (asked without pause on one keep-alive connection) and to Envoy's acknowledgement; all services but the first
have one release, as usual, or two ("all in rollouts", the worst case). What follows is CPU time, so that a busy machine
does not blur it: of Envoy's main thread and of this process for a weight that nobody looks at, then of this process
alone; "uncached" is what every change would cost without the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from gapless.core.model import BUCKETS, Address, Endpoint, Entrance, Route, RouteTable, ServiceTable, Split
from gapless.core.world import RealWorld
from gapless.gateway.envoy import EnvoyGateway
from gapless.gateway.envoy.accesslog import AccessLog
from gapless.gateway.envoy.entries import Entry, message_class
from gapless.gateway.envoy.parts import Parts
from gapless.gateway.envoy.protos import load_messages
from gapless.gateway.envoy.resources import Resources, resources

HOST = "127.0.0.1"
ENTRIES = 200
UNSEEN = 20
"""Changes whose CPU time is taken."""


async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def service(name: str, ports: list[int], canary: int) -> ServiceTable:
    split = Split(service=name, stable="1", weights=(("2", canary), ("1", BUCKETS - canary)), salt=f"{name}-1")
    endpoints = tuple(
        Endpoint(instance=f"{name}-{release}", release=release, address=Address(host=HOST, port=port))
        for release, port in zip("12", ports, strict=True)
    )
    return ServiceTable(service=name, split=split, endpoints=endpoints, routes=(Route(path=f"/{name}"),))


def quiet(name: str, ports: list[int]) -> ServiceTable:
    """No rollout: one release."""
    found = service(name, ports, 0)
    return replace(found, split=replace(found.split, weights=(("1", BUCKETS),)), endpoints=found.endpoints[:1])


@cache
def others_of(ports: tuple[int, ...], services: int, worst: bool) -> tuple[ServiceTable, ...]:
    """The very same each time, as the control plane gives them (`control.table.Tables`)."""
    made = list(ports)
    return tuple(service(f"s{i}", made, 500) if worst else quiet(f"s{i}", made) for i in range(1, services))


def table(ports: list[int], services: int, canary: int, version: int, *, worst: bool = False) -> RouteTable:
    """`services` of them; the split of the first is `canary`."""
    others = others_of(tuple(ports), services, worst)
    return RouteTable(version=version, services=(service("s0", ports, canary), *others))


async def release_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET /s0 HTTP/1.1\r\nhost: x\r\nx-user-id: u\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(2)
    return head.partition(b"x-gapless-release: ")[2][:1]


async def weight_changes(gateway: EnvoyGateway, port: int, make: Callable[[int, int], RouteTable], changes: int) -> str:
    reader, writer = await asyncio.open_connection(HOST, port)
    obeyed, acknowledged = [], []

    async def apply(version: int, canary: int) -> None:
        began = time.perf_counter()
        await gateway.apply(make(canary, version))
        acknowledged.append((time.perf_counter() - began) * 1000)

    for version in range(2, changes + 2):
        canary, wanted = (BUCKETS, b"2") if version % 2 else (0, b"1")
        began = time.perf_counter()
        applying = asyncio.create_task(apply(version, canary))
        while await release_of(reader, writer) != wanted:
            pass
        obeyed.append((time.perf_counter() - began) * 1000)
        await applying
    writer.close()
    await writer.wait_closed()
    return f"{_quantiles(obeyed)}   {_quantiles(acknowledged)}"


async def change_cpu(gateway: EnvoyGateway, make: Callable[[int, int], RouteTable], first: int) -> str:
    envoy_ms, own_s = _main_thread_ms(gateway.pid), time.process_time()
    for version in range(first, first + UNSEEN):
        await gateway.apply(make(BUCKETS if version % 2 else 0, version))
    envoy_ms, own_s = _main_thread_ms(gateway.pid) - envoy_ms, time.process_time() - own_s
    return f"{envoy_ms / UNSEEN:7.2f} + {own_s / UNSEEN * 1000:5.2f} ms"


def _main_thread_ms(pid: int) -> float:
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


def _quantiles(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=20)
    return f"{cuts[9]:7.1f} / {cuts[18]:7.1f} ms"


def _made(ports: list[int], services: int, worst: bool, canary: int, version: int) -> RouteTable:
    return table(ports, services, canary, version, worst=worst)


async def live(services: int, changes: int) -> None:
    state = Path(tempfile.mkdtemp(prefix="g-"))
    world = RealWorld()
    port = world.free_port(HOST)
    gateway = EnvoyGateway(Entrance(listen=Address(host=HOST, port=port)), state, world)
    servers = [await asyncio.start_server(upstream, HOST, 0) for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    try:
        await gateway.start()
        print("services             weight → first response    weight → acknowledged     first table   Envoy + own CPU")
        for count, worst in ((1, False), (services, False), (services, True)):
            make = partial(_made, ports, count, worst)
            began = time.perf_counter()
            await gateway.apply(make(0, 1))
            whole_ms = (time.perf_counter() - began) * 1000
            figures = await weight_changes(gateway, port, make, changes)
            cpu = await change_cpu(gateway, make, changes + 2)
            print(f"{count:4d} {'all in rollouts' if worst else '':15s} {figures}   {whole_ms:8.0f} ms  {cpu}")
    finally:
        await gateway.stop(drain_s=0)
        for server in servers:
            server.close()
        shutil.rmtree(state)


def cpu_ms(act: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        act()
    return (time.process_time() - began) * 1000 / times


def conversion(services: int) -> None:
    listen = Entrance(listen=Address(host=HOST, port=8080))
    for worst in (False, True):
        messages, canaries, parts = load_messages(), itertools.count(1), Parts()

        def told(worst: bool = worst, canaries: Iterator[int] = canaries, parts: Parts = parts) -> Resources:
            return resources(table([9001, 9002], services, next(canaries), 1, worst=worst), listen, (), parts)

        first = cpu_ms(lambda messages=messages, told=told: messages.snapshot(told()), 1)
        again = cpu_ms(lambda messages=messages, told=told: messages.snapshot(told()), 10)
        name = f"{services} services{', all in rollouts' if worst else ''}"
        print(
            f"table → bytes, {name}: uncached {first:.0f} ms, one weight changed {again:.1f} ms: {first / again:.0f}:1"
        )


def access_log() -> None:
    kind = message_class()
    message = kind()
    records = message.resource_logs.add().scope_logs.add().log_records
    for i in range(ENTRIES):
        entry = Entry(*["-"] * len(Entry._fields))._replace(
            cluster=f"orders@{i % 2}",
            status="200",
            place="127.0.0.1:9000",
            received="100",
            last=str(5_000 + i),
            sent=str(5_100 + i),
            user=f"user-{i}",
            method="GET",
            path="/orders/12345",
        )
        line = "\n".join(entry)
        records.add(time_unix_nano=i).body.text = line.encode()
    data, log = message.SerializeToString(), AccessLog(RealWorld())
    took_us = cpu_ms(lambda: log.take(kind.FromString(data)), 200) * 1000 / ENTRIES
    print(f"access log: {took_us:.1f} µs of CPU per request")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--changes", type=int, default=60)
    options = parser.parse_args()
    asyncio.run(live(options.services, options.changes))
    conversion(options.services)
    access_log()


if __name__ == "__main__":
    main()

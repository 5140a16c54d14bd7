"""A whole zone is lost, killed at once or gone dark: the other one answers, and nothing that may be repeated fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import pytest

from gapless.core.model import Address, Endpoint, Entrance, ServiceTable, Upstream
from tests.integration.envoy_kit import HOST, Client, Rig, ask, gateway, service, table, upstream_process
from tests.ports import free_port

MOST_S = 4.0
"""The promise is 1 s on a quiet machine (benchmarks/gateway.py); machines of tests are busy."""

ZONES = ("a", "b")


@dataclass
class Load:
    """Clients that ask without pause, on connections that they keep."""

    port: int
    counts: Counter[int] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    stopping: bool = False

    async def run(self, method: str) -> None:
        client, loop = Client(self.port), asyncio.get_running_loop()
        while not self.stopping:
            began = loop.time()
            self.counts[(await client.ask("/orders", method=method)).status] += 1
            self.took_s.append(loop.time() - began)
            await asyncio.sleep(0.01)
        await client.close()


@pytest.fixture
async def rig(short_dir: object) -> AsyncIterator[Rig]:
    """A gateway in zone a."""
    from pathlib import Path

    state, port, events = Path(str(short_dir)), free_port(HOST), []
    entrance = Entrance(listen=Address(host=HOST, port=port), zone="a")
    found = Rig(gateway(port, state, events, entrance), port, state, events)
    await found.traffic.start()
    try:
        yield found
    finally:
        await found.traffic.stop(drain_s=1)


def zoned(endpoints: list[Endpoint]) -> ServiceTable:
    return replace(service(endpoints), upstream=Upstream(zones=ZONES))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "dark"])
async def test_a_zone_is_lost(rig: Rig, number: signal.Signals, record_property: Callable[[str, object], None]) -> None:
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(upstream_process()) for _ in range(4)]
        places = [replace(endpoint, zone=ZONES[i // 2]) for i, (_, endpoint) in enumerate(started)]
        lost = [process.pid for process, _ in started[:2]]
        await rig.traffic.apply(table(zoned(places)))
        load = Load(rig.port)
        try:
            async with asyncio.TaskGroup() as group:
                for n in range(10):
                    group.create_task(load.run("GET" if n % 2 else "PUT"))
                await asyncio.sleep(1)
                load.took_s.clear()
                for pid in lost:
                    os.kill(pid, number)
                await asyncio.sleep(3)
                load.stopping = True
        finally:
            if number is signal.SIGSTOP:
                for pid in lost:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
    assert set(load.counts) == {200}
    p99_s = statistics.quantiles(load.took_s, n=100)[98]
    record_property("p99_after_loss_s", round(p99_s, 3))
    record_property("slowest_s", round(max(load.took_s), 3))
    assert max(load.took_s) < MOST_S


async def test_the_gateway_s_own_zone_is_preferred_and_what_is_slow_is_not_cut_off(rig: Rig) -> None:
    near, far = await rig.upstream("near"), await rig.upstream("far")
    places = [replace(near.endpoint(), zone="a"), replace(far.endpoint(), zone="b")]
    await rig.traffic.apply(table(zoned(places)))
    assert {(await ask(rig.port, "/orders")).body for _ in range(20)} == {b"near"}
    slow = await ask(rig.port, "/orders?wait=1.2", method="POST")
    assert (slow.status, slow.body) == (200, b"near")
    assert not [seen for seen in far.seen if seen[0] == "POST"], "what cannot be repeated is asked once"
    assert (await ask(rig.port, "/orders?wait=1.2")).status == 200
    assert [seen for seen in far.seen if "wait" in seen[1]], "what can be is asked elsewhere too"
    await rig.traffic.apply(table(zoned([places[1]]), version=2))
    assert (await ask(rig.port, "/orders")).body == b"far", "nobody is near"
    for upstream in rig.upstreams:
        await upstream.stop()

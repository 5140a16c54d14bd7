"""What happens to requests while instances leave, die or fail: nothing, when a healthy one could have answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from gapless.core.model import Endpoint
from tests.integration.envoy_kit import Client, Rig, ask, running, service, table, upstream_process

pytestmark = [pytest.mark.promise, pytest.mark.asyncio(loop_scope="module")]

KEYED = {"idempotency-key": "k-1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


class Load:
    """Clients that ask without pause and count what they get; they never retry."""

    def __init__(self, port: int, method: str, headers: Mapping[str, str]) -> None:
        self._port = port
        self._method = method
        self._headers = headers
        self.counts: Counter[int] = Counter()
        self._stopping = False

    async def run(self) -> None:
        client = Client(self._port)
        try:
            while not self._stopping:
                reply = await client.ask("/orders", method=self._method, headers=self._headers)
                self.counts[reply.status] += 1
        finally:
            await client.close()

    async def answered(self, more: int) -> None:
        """Wait for so many more answers."""
        until = self.counts[200] + more
        async with asyncio.timeout(20):
            while self.counts[200] < until:
                await asyncio.sleep(0.005)

    def stop(self) -> None:
        self._stopping = True


@asynccontextmanager
async def load(
    port: int, method: str = "GET", headers: Mapping[str, str] | None = None, clients: int = 12
) -> AsyncIterator[Load]:
    under_way = Load(port, method, headers or {})
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(under_way.run())
        try:
            yield under_way
        finally:
            under_way.stop()


@pytest.mark.parametrize(
    ("method", "headers"), [("GET", {}), ("POST", KEYED), ("PUT", {})], ids=["get", "keyed", "put"]
)
async def test_a_killed_instance_loses_nothing_that_may_be_repeated(
    rig: Rig, method: str, headers: Mapping[str, str]
) -> None:
    async with upstream_process() as (doomed, endpoint), upstream_process() as (_, other):
        await rig.traffic.apply(table(service([endpoint, other])))
        async with load(rig.port, method, headers) as under_way:
            await under_way.answered(100)
            doomed.kill()
            await under_way.answered(200)
            await rig.traffic.apply(table(service([other]), version=2))
            await under_way.answered(50)
        assert set(under_way.counts) == {200}


async def test_what_cannot_be_repeated_is_not(rig: Rig) -> None:
    """A POST without a key that an instance may have seen is answered once, with an error, not sent twice."""
    upstreams = [await rig.upstream("a"), await rig.upstream("b")]
    await rig.traffic.apply(table(service([u.endpoint() for u in upstreams])))
    assert (await ask(rig.port, "/orders?abort=1", method="POST")).status == 503
    assert sum(len(u.seen) for u in upstreams) == 1
    assert (await ask(rig.port, "/orders?status=500", headers=KEYED)).status == 500
    assert sum(len(u.seen) for u in upstreams) == 2, "an application's own error is its answer"


async def test_what_an_instance_has_not_begun_goes_to_another(rig: Rig) -> None:
    """Connection refused: safe for every method."""
    gone, other = await rig.upstream("gone"), await rig.upstream("other")
    await rig.traffic.apply(table(service([gone.endpoint(), other.endpoint()])))
    await gone.stop()
    rig.upstreams.remove(gone)
    replies = [await ask(rig.port, "/orders", method="POST") for _ in range(20)]
    assert {reply.body for reply in replies} == {b"other"}


async def test_a_draining_instance_says_so_and_another_answers(rig: Rig) -> None:
    upstreams = [await rig.upstream("a"), await rig.upstream("b")]
    await rig.traffic.apply(table(service([u.endpoint() for u in upstreams])))
    reply = await ask(rig.port, "/orders?draining=1")
    assert (reply.status, sum(len(u.seen) for u in upstreams)) == (503, 4), "three more attempts were made"
    assert "x-gapless-draining" not in reply.headers
    assert (await ask(rig.port, "/orders?draining=1", method="POST")).status == 503
    assert sum(len(u.seen) for u in upstreams) == 5


async def test_a_request_in_flight_outlives_its_instances_removal(rig: Rig) -> None:
    leaving, staying = await rig.upstream("leaving"), await rig.upstream("staying")
    await rig.traffic.apply(table(service([leaving.endpoint()])))
    in_flight = asyncio.create_task(ask(rig.port, "/orders?wait=0.5", method="POST"))
    await _seen(leaving.seen)
    await rig.traffic.apply(table(service([staying.endpoint()]), version=2))
    assert (await ask(rig.port, "/orders")).body == b"staying"
    reply = await in_flight
    assert (reply.status, reply.body) == (200, b"leaving")


async def test_a_request_in_flight_outlives_its_releases_removal(rig: Rig) -> None:
    """The cluster itself goes away."""
    old, new = await rig.upstream("old"), await rig.upstream("new")
    await rig.traffic.apply(table(service([old.endpoint("1"), new.endpoint("2")], canary=10_000)))
    in_flight = asyncio.create_task(ask(rig.port, "/orders?wait=0.5", method="POST"))
    await _seen(new.seen)
    found = service([old.endpoint("1")])
    only_old = found.__class__(
        service="orders",
        split=found.split.__class__(service="orders", stable="1", weights=(("1", 10_000),)),
        endpoints=found.endpoints,
        routes=found.routes,
    )
    await rig.traffic.apply(table(only_old, version=2))
    assert (await ask(rig.port, "/orders")).body == b"old"
    reply = await in_flight
    assert (reply.status, reply.body) == (200, b"new")


async def test_removal_then_death_loses_nothing_even_of_what_cannot_be_repeated(rig: Rig) -> None:
    async with upstream_process() as (doomed, endpoint), upstream_process() as (_, other):
        await rig.traffic.apply(table(service([endpoint, other])))
        async with load(rig.port, "POST") as under_way:
            await under_way.answered(50)
            draining = Endpoint(instance="x", release="1", address=endpoint.address, draining=True)
            await rig.traffic.apply(table(service([draining, other]), version=2))
            await asyncio.sleep(0.3)  # what it had begun takes 20 ms
            doomed.kill()
            await under_way.answered(100)
        assert set(under_way.counts) == {200}


async def test_a_kill_at_once_after_the_removal_was_acknowledged_loses_nothing_that_may_be_repeated(rig: Rig) -> None:
    async with upstream_process() as (doomed, endpoint), upstream_process() as (_, other):
        await rig.traffic.apply(table(service([endpoint, other])))
        async with load(rig.port) as under_way:
            await under_way.answered(50)
            draining = Endpoint(instance="x", release="1", address=endpoint.address, draining=True)
            await rig.traffic.apply(table(service([draining, other]), version=2))
            doomed.kill()
            await under_way.answered(100)
        assert set(under_way.counts) == {200}


async def test_a_release_loses_its_last_instance_in_the_table_that_takes_its_users(rig: Rig) -> None:
    old, new = await rig.upstream("old"), await rig.upstream("new")
    turns = [(old.endpoint("1"), 0), (new.endpoint("2"), 10_000)]
    await rig.traffic.apply(table(service([turns[0][0]])))
    async with load(rig.port, "POST") as under_way:
        for version in range(2, 14):
            endpoint, canary = turns[(version + 1) % 2]
            await rig.traffic.apply(table(service([endpoint], canary=canary), version=version))
            await under_way.answered(20)
    assert set(under_way.counts) == {200}


async def test_an_instance_alone_is_never_set_aside(rig: Rig) -> None:
    only = await rig.upstream("only")
    await rig.traffic.apply(table(service([only.endpoint()])))
    for _ in range(8):
        assert (await ask(rig.port, "/orders?status=503")).status == 503
    assert (await ask(rig.port, "/orders")).status == 200


async def test_how_soon_a_weight_acts(rig: Rig, record_property: Callable[[str, object], None]) -> None:
    """Measured, hardly held to: machines are busy."""
    old, new = await rig.upstream("old"), await rig.upstream("new")
    both = [old.endpoint("1"), new.endpoint("2")]
    client, took = Client(rig.port), []
    for version in range(10):
        canary, wanted = (10_000, "2") if version % 2 else (0, "1")
        began = time.perf_counter()
        applying = asyncio.create_task(rig.traffic.apply(table(service(both, canary=canary), version=version)))
        while (await client.ask("/orders", headers={"x-user-id": "u"})).release != wanted:
            pass
        took.append(time.perf_counter() - began)
        await applying
    await client.close()
    record_property("weight_acts_after_ms", round(sorted(took)[len(took) // 2] * 1000, 1))
    assert max(took) < 5


async def _seen(requests: list[tuple[str, str, dict[str, str]]]) -> None:
    async with asyncio.timeout(5):
        while not requests:
            await asyncio.sleep(0.005)

"""gRPC through the gateway: HTTP/2 on both sides, trailers, streams, deadlines; UNAVAILABLE asked again when safe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

from gapless.core.grpc_health import GRPC_HEALTH
from gapless.core.model import Address, Endpoint, Protocol, Route, ServiceTable, Upstream
from gapless.core.world import RealWorld
from tests.integration.envoy_kit import HOST, Rig, running, service, table

Answer = health_pb2.HealthCheckResponse

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


class Servicer:
    """`/shop.Orders/…` over plain bytes: it says its name, waits, streams, or fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        self.unavailable = False
        self.health = aio.HealthServicer()

    async def start(self) -> Endpoint:
        self.server = grpc.aio.server()
        methods = {
            "Get": grpc.unary_unary_rpc_method_handler(self.get),
            "List": grpc.unary_stream_rpc_method_handler(self.list),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        port = self.server.add_insecure_port(f"{HOST}:0")
        await self.server.start()
        return Endpoint(instance=self.name, release="1", address=Address(host=HOST, port=port))

    async def get(self, request: bytes, context: Any) -> bytes:
        self.asked.append("Get")
        if self.unavailable:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        context.set_trailing_metadata((("x-trailer", self.name),))
        return self.name.encode()

    async def list(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for n in range(3):
            yield b"%d" % n
            await asyncio.sleep(0.05)

    async def wait(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(float(request))
        return b"done"


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


@pytest_asyncio.fixture(loop_scope="module")
async def servicers() -> AsyncIterator[Callable[[str], Servicer]]:
    """Makes them, and stops them."""
    made: list[Servicer] = []

    def make(name: str) -> Servicer:
        made.append(Servicer(name))
        return made[-1]

    yield make
    for one in made:
        await one.server.stop(0)


def speaking(endpoints: list[Endpoint], timeout_s: float = 15.0, name: str = "orders") -> ServiceTable:
    found = service(endpoints, name=name, routes=[Route(path="/shop.Orders")], timeout_s=timeout_s)
    return replace(found, upstream=Upstream(protocol=Protocol.GRPC, eject_after=0))


async def test_calls_streams_trailers_and_deadlines(rig: Rig, servicers: Callable[[str], Servicer]) -> None:
    one = servicers("one")
    await rig.traffic.apply(table(speaking([await one.start()], timeout_s=2.0)))
    async with grpc.aio.insecure_channel(f"{HOST}:{rig.port}") as channel:
        call = channel.unary_unary("/shop.Orders/Get")(b"")
        assert await call == b"one"
        assert ("x-trailer", "one") in tuple(await call.trailing_metadata())
        assert [part async for part in channel.unary_stream("/shop.Orders/List")(b"")] == [b"0", b"1", b"2"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/shop.Orders/Wait")(b"30", timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # without a deadline of the caller's, ours
            await channel.unary_unary("/shop.Orders/Wait")(b"30")
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/shop.Else/Get")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_unavailable_is_asked_again_only_where_it_is_safe_and_counts_as_an_error(
    rig: Rig, servicers: Callable[[str], Servicer]
) -> None:
    sick, well = servicers("sick"), servicers("well")
    sick.unavailable = True
    world = RealWorld()
    since_at = int(world.time())
    await rig.traffic.apply(table(speaking([await sick.start(), await well.start()], name="called")))
    async with grpc.aio.insecure_channel(f"{HOST}:{rig.port}") as channel:
        get = channel.unary_unary("/shop.Orders/Get")
        keyed = [await get(b"", metadata=(("idempotency-key", f"k{n}"),)) for n in range(8)]
        assert set(keyed) == {b"well"}
        assert sick.asked, "it was asked, and another one after it"
        plain = await asyncio.gather(*(get(b"") for _ in range(10)), return_exceptions=True)
    errors = [each for each in plain if isinstance(each, grpc.aio.AioRpcError)]
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    async with asyncio.timeout(10):
        while (told := await rig.traffic.window("called", "1", since_at, world.time() + 1)).requests < 18:
            await asyncio.sleep(0.05)
    assert told.errors == len(errors)


async def test_in_zones_the_gateway_itself_asks_the_health_service(
    rig: Rig, servicers: Callable[[str], Servicer]
) -> None:
    one, two = servicers("one"), servicers("two")
    places = [replace(await one.start(), zone="a"), replace(await two.start(), zone="b")]
    asked = Upstream(protocol=Protocol.GRPC, eject_after=0, zones=("a", "b"), check=GRPC_HEALTH)
    await rig.traffic.apply(table(replace(speaking(places, name="zoned"), upstream=asked)))
    async with grpc.aio.insecure_channel(f"{HOST}:{rig.port}") as channel, asyncio.timeout(20):
        get = channel.unary_unary("/shop.Orders/Get")
        while {await get(b"") for _ in range(20)} != {b"one", b"two"}:
            await asyncio.sleep(0.05)
        await one.health.set("", Answer.NOT_SERVING)
        while b"one" in {await get(b"") for _ in range(20)}:
            await asyncio.sleep(0.05)
        await one.health.set("", Answer.SERVING)
        while b"one" not in {await get(b"") for _ in range(20)}:
            await asyncio.sleep(0.05)

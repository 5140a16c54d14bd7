"""grpc.aio on discovery and balancing, against real servers: all four kinds of calls."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from gapless.core.world import RealWorld
from gapless.discovery.directory import Directory, static
from gapless.discovery.sources.static import endpoints
from gapless.resilience import deadline, pushback
from gapless.service.client_grpc import ServiceChannel
from gapless.service.requests import Exchange
from tests.integration.agent_kit import Agent
from tests.integration.instances_kit import Instances, Said, running, survives
from tests.integration.test_client_sockets import at
from tests.ports import free_port

Code = grpc.StatusCode
SERVER = """
import asyncio, os, sys, grpc

async def say(request, context):
    word, _, argument = request.decode().partition(" ")
    told = dict(context.invocation_metadata())
    if word == "sleep":
        await asyncio.sleep(float(argument))
    elif word == "abort":
        await context.abort(getattr(grpc.StatusCode, argument), "said so", (("why", "because"),))
    elif word == "busy" and sys.argv[2] == "busy":
        await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
    elif word == "final":
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "-1"),))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "asked again already")
    elif word == "metadata":
        return str(told.get(argument, "")).encode()
    await context.send_initial_metadata((("began", "yes"),))
    context.set_trailing_metadata((("ended", "yes"),))
    return b"%d %s" % (os.getpid(), context.peer().rpartition(":")[2].encode())

async def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number
        await asyncio.sleep(0.01)

async def add(requests, context):
    return b"%d" % sum([int(request) async for request in requests])

async def echo(requests, context):
    async for request in requests:
        yield request

async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("stock.Stock", {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Add": grpc.stream_unary_rpc_method_handler(add),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }),))
    server.add_insecure_port("127.0.0.1:" + sys.argv[1])
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


def known(*ports: int) -> Directory:
    return Directory(RealWorld(), table=static("stock", at(list(ports))))


class Stub:
    """As it is generated from a .proto file."""

    def __init__(self, channel: Any) -> None:
        self.say = channel.unary_unary("/stock.Stock/Say", _registered_method=True)
        self.count = channel.unary_stream("/stock.Stock/Count", str.encode, bytes.decode, _registered_method=True)
        self.add = channel.stream_unary("/stock.Stock/Add", str.encode, bytes.decode, _registered_method=True)
        self.echo = channel.stream_stream("/stock.Stock/Echo", _registered_method=True)


@asynccontextmanager
async def stock(*ports: int, **options: Any) -> AsyncIterator[Stub]:
    async with ServiceChannel("stock", directory=known(*ports), **options) as channel:
        yield Stub(channel)


@asynccontextmanager
async def one() -> AsyncIterator[tuple[Instances, int]]:
    async with running(SERVER) as instances:
        (port,) = await instances.start(1)
        yield instances, port


async def test_nothing_is_lost_when_instances_and_the_registry_come_and_go() -> None:
    async with running(SERVER) as instances, Agent() as agent, ServiceChannel("stock", discovery=agent.address) as to:
        stub = Stub(to)

        async def call(key: str) -> Said:
            pid, port = (await stub.say(b"who", timeout=10, metadata=[("idempotency-key", key)])).split()
            return Said(int(pid), int(port))

        await survives(call, instances, agent)


async def test_all_four_kinds_of_calls() -> None:
    async with one() as (instances, port), stock(free_port("127.0.0.1"), port) as stub:
        for _ in range(5):
            call = stub.say(b"who")
            assert int((await call).split()[0]) == instances.pid(port)
            assert (await call.code(), await call.details()) == (Code.OK, "")
            assert ("began", "yes") in tuple(await call.initial_metadata())
            assert ("ended", "yes") in tuple(await call.trailing_metadata())
            assert call.done()
            assert not call.cancelled()
            assert [message async for message in stub.count("3")] == ["0", "1", "2"]

            async def numbers() -> AsyncIterator[str]:
                for number in "123":
                    yield number

            assert await stub.add(numbers()) == "6"
            writing = stub.add()
            await writing.write("4")
            await writing.write("5")
            await writing.done_writing()
            assert await writing == "9"
            talk = stub.echo()
            await talk.wait_for_connection()
            for word in (b"a", b"b"):
                await talk.write(word)
                assert await talk.read() == word
            await talk.done_writing()
            assert await talk.read() is grpc.aio.EOF
            assert await talk.code() is Code.OK


async def test_errors_of_the_application_are_its_own() -> None:
    async with one() as (_, port), stock(port) as stub:
        call = stub.say(b"abort NOT_FOUND")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        assert (failed.value.code(), failed.value.details()) == (Code.NOT_FOUND, "said so")
        assert await call.code() is Code.NOT_FOUND
        assert ("why", "because") in tuple(await call.trailing_metadata())


async def test_a_busy_instance_is_passed_over_if_that_is_safe() -> None:
    async with running(SERVER) as instances:
        (busy,), (idle,) = await instances.start(1, "busy"), await instances.start(1)
        key = [("idempotency-key", "k")]
        async with stock(busy, idle) as stub:
            for _ in range(10):
                assert int((await stub.say(b"busy", metadata=key)).split()[0]) == instances.pid(idle)
        async with stock(busy, idle, idempotent=["/stock.Stock/Say"]) as stub:
            assert int((await stub.say(b"busy")).split()[0]) == instances.pid(idle)
        async with stock(busy) as stub:
            with pytest.raises(grpc.aio.AioRpcError, match="busy"):
                await stub.say(b"busy")


async def test_what_others_asked_again_in_vain_is_final_and_so_is_what_was_asked_again_here() -> None:
    async with one() as (_, port), stock(port, idempotent=["/stock.Stock/Say"]) as stub:
        for word in (b"final", b"abort UNAVAILABLE"):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.say(word)
            assert pushback.is_final(failed.value)


async def test_what_goes_along() -> None:
    being_served = Exchange({}, None, [], b"", 0.0)
    being_served.headers = {b"traceparent": b"00-a-b-01", b"x-user-id": b"ann", b"tracestate": b"\xe9\x01"}
    async with one() as (_, port), stock(port) as stub:
        token, limit = pushback.served.set(being_served), deadline.current.set(RealWorld().now() + 3)
        try:
            assert await stub.say(b"metadata traceparent") == b"00-a-b-01"
            assert await stub.say(b"metadata x-user-id", metadata=[("x-user-id", "bob")]) == b"bob"
            assert 2000 < int(await stub.say(b"metadata x-gapless-deadline-ms")) <= 3000
            assert 500 < int(await stub.say(b"metadata x-gapless-deadline-ms", timeout=1)) <= 1000
        finally:
            deadline.current.reset(limit)
            pushback.served.reset(token)
        assert 10_000 < int(await stub.say(b"metadata x-gapless-deadline-ms")) <= 15_000


async def test_the_deadline_ends_a_call_of_each_kind() -> None:
    async with one() as (_, port), stock(port) as stub:
        call = stub.say(b"sleep 30", timeout=0.2)
        assert call.time_remaining() is None or call.time_remaining() <= 0.2
        with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
            await call
        stream = stub.count("1000", timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
            async for _ in stream:
                pass
        assert await stream.code() is Code.DEADLINE_EXCEEDED
        assert await stub.add(timeout=0.2).code() is Code.DEADLINE_EXCEEDED


async def test_a_cancelled_call_is_cancelled_there_too_and_counts_for_nothing() -> None:
    async with one() as (_, port), ServiceChannel("stock", directory=known(port)) as channel:
        stub = Stub(channel)
        for call in (stub.say(b"sleep 30"), stub.count("100000"), stub.add(), stub.echo()):
            await asyncio.sleep(0.1)
            assert call.cancel()
            assert await call.code() is Code.CANCELLED
            assert call.cancelled()
        forgotten = stub.count("100000")
        assert await forgotten.read() == "0"
        del forgotten
        gc.collect()
        async with asyncio.timeout(10):
            while channel.callee._loads.of(endpoints(at([port]))[0].address).in_flight:
                await asyncio.sleep(0.01)
        assert not channel.callee._loads.of(endpoints(at([port]))[0].address).failures


async def test_nobody_there_fails_soon_unless_the_call_waits() -> None:
    free = free_port("127.0.0.1")
    async with stock(free) as stub, running(SERVER) as instances:
        for call in (stub.say(b"who"), stub.count("1"), stub.add()):
            assert await call.code() is Code.UNAVAILABLE
            assert "nobody could be reached" in await call.details()
        with pytest.raises(grpc.aio.AioRpcError, match="nobody could be reached"):
            await stub.count("1").read()
        waiting = [stub.say(b"who", wait_for_ready=True, timeout=60), stub.count("1", wait_for_ready=True, timeout=60)]
        await asyncio.sleep(0.2)
        await instances.start(1, port=free)
        assert int((await waiting[0]).split()[0]) == instances.pid(free)
        assert [message async for message in waiting[1]] == ["0"]


async def test_an_instance_that_is_not_listed_any_more_ends_what_it_has_begun() -> None:
    async with running(SERVER) as instances:
        old, new = await instances.start(2)
        directory = known(old)
        async with ServiceChannel("stock", directory=directory) as channel:
            stub = Stub(channel)
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            stream = stub.count("30")
            assert await stream.read() == "0"
            directory.update(static("stock", at([new])))
            assert int((await stub.say(b"who")).split()[0]) == instances.pid(new)
            messages = [await stream.read() for _ in range(30)]
            assert (messages[-2:], await stream.code()) == (["29", grpc.aio.EOF], Code.OK)
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_a_channel_is_ready_once_an_instance_is_known() -> None:
    directory = Directory(RealWorld())
    async with ServiceChannel("stock", directory=directory) as channel:
        idle = channel.get_state()
        assert idle is grpc.ChannelConnectivity.IDLE
        waiting = [asyncio.create_task(channel.channel_ready())]
        waiting.append(asyncio.create_task(channel.wait_for_state_change(idle)))
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        directory.update(static("stock", ["127.0.0.1:9"]))
        await asyncio.gather(*waiting)

"""The guard before a real grpc.aio server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from gapless.core.errors import ConfigError
from gapless.core.world import RealWorld
from gapless.observe.metrics import Meter
from gapless.resilience import deadline as deadlines_
from gapless.resilience.breaker import breaker
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import DeadlineExceeded
from gapless.resilience.guard import Guard, guard
from gapless.resilience.limit import limit
from gapless.resilience.rate import rate
from gapless.resilience.retry_layer import retry
from gapless.service.deadline_grpc import deadlines
from gapless.service.grpc_calls import Calls
from gapless.service.identity import Identity
from gapless.service.protect_grpc import ProtectedGrpc, check_async
from gapless.service.tracing import tracing_of

Code = grpc.StatusCode


class Shop:
    """What the server's methods do."""

    def __init__(self) -> None:
        self.release, self.waits = asyncio.Event(), asyncio.Event()
        self.left_s = 0.0

    async def say(self, request: bytes, context: Any) -> bytes:
        if request == b"wait":
            self.waits.set()
            await self.release.wait()
        elif request == b"fail":
            raise RuntimeError("no")
        elif request == b"none":
            await context.abort(Code.NOT_FOUND, "there is none")
        self.left_s = deadlines_.remaining(asyncio.get_running_loop().time())
        return b"said " + request

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(1000 if request == b"ever" else 3):
            yield b"%d" % number
            if request == b"ever":
                await asyncio.sleep(0.02)

    async def total(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"%d" % sum([len(each) async for each in requests])

    async def echo(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for each in requests:
            await context.write(each)


@asynccontextmanager
async def serving(guards: Guard | dict[str, Guard]) -> AsyncIterator[tuple[grpc.aio.Channel, Shop]]:
    shop = Shop()
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(shop.say),
        "Count": grpc.unary_stream_rpc_method_handler(shop.count),
        "Total": grpc.stream_unary_rpc_method_handler(shop.total),
        "Echo": grpc.stream_stream_rpc_method_handler(shop.echo),
    }
    server = grpc.aio.server(interceptors=[ProtectedGrpc(guards)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=deadlines()) as channel:
            yield channel, shop
    finally:
        await server.stop(None)


async def say(channel: grpc.aio.Channel, what: bytes = b"", **options: Any) -> bytes:
    return bytes(await channel.unary_unary("/shop.Shop/Say")(what, **options))


async def refused(channel: grpc.aio.Channel, what: bytes = b"", **options: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(channel, what, **options)
    return caught.value


async def items(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_all_four_kinds_of_methods_pass() -> None:
    async with serving(guard("shop", deadline(5), rate("100/s"), limit(5))) as (channel, _):
        assert await say(channel, b"hi") == b"said hi"
        assert [m async for m in channel.unary_stream("/shop.Shop/Count")(b"")] == [b"0", b"1", b"2"]
        assert await channel.stream_unary("/shop.Shop/Total")(items(b"ab", b"c")) == b"3"
        assert [m async for m in channel.stream_stream("/shop.Shop/Echo")(items(b"x", b"y"))] == [b"x", b"y"]


async def test_above_a_rate_resources_are_exhausted_and_the_trailer_says_until_when() -> None:
    async with serving(guard("shop", rate("2/min", key="{user}"))) as (channel, _):
        ada = (("x-user-id", "ada"),)
        for _ in range(2):
            await say(channel, metadata=ada)
        error = await refused(channel, metadata=ada)
        trailing = dict(error.trailing_metadata())
        assert (error.code(), trailing["gapless-policy"]) == (Code.RESOURCE_EXHAUSTED, "rate")
        assert 1_000 < int(trailing["grpc-retry-pushback-ms"]) <= 30_000
        await say(channel, metadata=(("x-user-id", "bob"),))


async def test_a_limit_and_a_breaker() -> None:
    guards = {
        "/": guard("shop", limit(1)),
        "/shop.Shop/Say": guard("say", breaker(rate=0.5, window=4, minimum=4), limit(1)),
    }
    async with serving(guards) as (channel, shop):
        waiting = asyncio.create_task(say(channel, b"wait"))
        while guards["/shop.Shop/Say"].statistics()["policies"]["limit"]["busy"] == 0:
            await asyncio.sleep(0.01)
        assert (await refused(channel)).code() is Code.RESOURCE_EXHAUSTED
        shop.release.set()
        await waiting
        assert (await refused(channel, b"none")).code() is Code.NOT_FOUND
        for _ in range(2):
            assert (await refused(channel, b"fail")).code() is Code.UNKNOWN
        error = await refused(channel)
        assert (error.code(), dict(error.trailing_metadata())["gapless-policy"]) == (Code.UNAVAILABLE, "breaker")


async def test_the_caller_s_timeout_is_the_deadline_inside() -> None:
    async with serving(guard("shop", deadline(60))) as (channel, shop):
        await say(channel, timeout=20)
        assert 0 < shop.left_s <= 20.5, "gRPC writes grpc-timeout with few digits, rounded up"
        await say(channel, metadata=(("x-gapless-deadline-ms", "9000"),))
        assert 0 < shop.left_s <= 9


async def test_after_the_own_deadline_it_is_exceeded() -> None:
    async with serving(guard("shop", deadline(0.1))) as (channel, _):
        error = await refused(channel, b"wait")
        assert (error.code(), dict(error.trailing_metadata())["gapless-policy"]) == (Code.DEADLINE_EXCEEDED, "deadline")


async def test_a_cancelled_stream_gives_its_place_back() -> None:
    found = guard("shop", limit(1))
    async with serving(found) as (channel, _):
        call = channel.unary_stream("/shop.Shop/Count")(b"ever")
        assert await call.read() == b"0"
        assert found.statistics()["policies"]["limit"]["busy"] == 1
        call.cancel()
        async with asyncio.timeout(10):
            while found.statistics()["policies"]["limit"]["busy"]:
                await asyncio.sleep(0.01)
        assert found.statistics()["failed"] == 0


def test_a_handler_for_threads_is_refused() -> None:
    with pytest.raises(ConfigError, match="not async"):
        check_async(lambda request, context: b"", "/shop.Shop/Say")


async def test_what_is_left_of_a_deadline_goes_downstream() -> None:
    """In `grpc-timeout`, for all four kinds of methods; a shorter timeout of the call's own holds."""
    async with serving(guard("shop", limit(10))) as (channel, shop):

        @guard("caller", deadline(5.0))
        async def call(timeout_s: float | None = None) -> float:
            assert await say(channel, b"hello", timeout=timeout_s) == b"said hello"
            assert [each async for each in channel.unary_stream("/shop.Shop/Count")(b"")] == [b"0", b"1", b"2"]
            assert await channel.stream_unary("/shop.Shop/Total")(several()) == b"3"
            assert [each async for each in channel.stream_stream("/shop.Shop/Echo")(several())] == [b"a", b"bb"]
            return shop.left_s

        assert 4.0 < await call() <= 5.0
        assert 1.0 < await call(2.0) <= 2.0
        assert await say(channel) == b"said "
        assert shop.left_s == math.inf, "without a deadline there is none"

        @guard("late", deadline(0.3))
        async def wait() -> bytes:
            return await say(channel, b"wait")

        with pytest.raises((DeadlineExceeded, grpc.aio.AioRpcError)):
            await wait()
        token = deadlines_.current.set(0.0)
        with pytest.raises(DeadlineExceeded) as caught:
            await say(channel, b"hello")
        deadlines_.current.reset(token)
        assert not caught.value.started


async def several() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"bb"


class Relay:
    """A hop that asks the next one, again and again; the last one counts, and fails."""

    def __init__(self, following: grpc.aio.Channel | None, how: str) -> None:
        self.calls, self._following, self._how = 0, following, how
        again = retry(lambda _: True, attempts=3, idempotent=True, base=0.001)
        self._ask = guard("relay", again)(self._ask_once) if how != "bare" else self._ask_once

    async def _ask_once(self) -> bytes:
        self.calls += 1
        if self._following is None:
            raise RuntimeError("no")
        return bytes(await self._following.unary_unary("/shop.Shop/Say")(b""))

    async def say(self, request: bytes, context: Any) -> bytes:
        try:
            return await self._ask()
        except Exception:
            if self._how == "abort":
                await context.abort(Code.UNAVAILABLE, "not now")
            if self._how == "answer":
                return b"something else"
            raise


@asynccontextmanager
async def relaying(following: grpc.aio.Channel | None, how: str) -> AsyncIterator[tuple[grpc.aio.Channel, Relay]]:
    relay = Relay(following, how)
    server = grpc.aio.server(interceptors=[Calls(RealWorld(), Meter(), tracing_of(Identity(), RealWorld()))])
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(relay.say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=deadlines()) as channel:
            yield channel, relay
    finally:
        await server.stop(None)


@pytest.mark.parametrize("middle", ["raise", "abort", "bare"])
async def test_hops_that_all_ask_again_do_so_once(middle: str) -> None:
    async with (
        relaying(None, "raise") as (channel, last),
        relaying(channel, middle) as (between, second),
        relaying(between, "abort") as (front, first),
    ):
        error = await refused(front)
        assert (first.calls, second.calls, last.calls) == (1, 1, 3)
        assert (error.code(), dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) == (Code.UNAVAILABLE, "-1")


async def test_an_answer_after_all_does_not_say_that_it_is_final() -> None:
    async with relaying(None, "answer") as (channel, last):
        call = channel.unary_unary("/shop.Shop/Say")(b"")
        assert await call == b"something else"
        assert (last.calls, tuple(await call.trailing_metadata())) == (3, ())


async def test_a_call_that_is_cancelled_while_interceptors_watch_it_is_cancelled_at_the_server() -> None:
    async with serving(guard("shop", limit(1))) as (channel, shop):
        call = asyncio.ensure_future(say(channel, b"wait"))
        async with asyncio.timeout(10):
            await shop.waits.wait()
            assert (await refused(channel)).code() is Code.RESOURCE_EXHAUSTED
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            while True:
                try:
                    await say(channel)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)
                else:
                    break

"""`gapless serve --grpc` with real grpc.aio clients: answered, reloaded under load, drained."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gapless.control.prober import probe
from gapless.core.grpc_health import GRPC_HEALTH
from gapless.core.model import Address, Instance
from gapless.server.listen.bind import connected
from tests.integration.serve_kit import Server, exchange, served, session, until
from tests.integration.tls_kit import Authority

Code = grpc.StatusCode
Status = health_pb2.HealthCheckResponse
PATIENCE_S = 30.0

APP = """
import asyncio, os, time
import grpc
from gapless import Service
from gapless.observe import log
from gapless.resilience import deadline
from gapless.core.world import RealWorld
from gapless.service.grpc_calls import peer_of
from gapless.service.grpc_service import GrpcService

VERSION = "1"

async def say(request, context):
    word, _, argument = request.decode().partition(" ")
    if word == "sleep":
        await asyncio.sleep(float(argument))
    elif word == "fail":
        raise ValueError("no")
    elif word == "abort":
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
    elif word == "exit":
        os._exit(3)
    elif word == "left":
        return str(deadline.remaining(RealWorld().now())).encode()
    elif word == "id":
        return log.request_id.get().encode()
    elif word == "peer":
        return peer_of(context).encode()
    return f"{VERSION} {os.getpid()}".encode()

def block(request, context):
    if request == b"abort":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
    time.sleep(float(request))
    return b"%d" % os.getpid()

async def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number
        await asyncio.sleep(0.05)

async def add_up(requests, context):
    return b"%d" % sum([int(request) async for request in requests])

async def echo(requests, context):
    async for request in requests:
        yield request

def add(server):
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Block": grpc.unary_unary_rpc_method_handler(block),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Add": grpc.stream_unary_rpc_method_handler(add_up),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", methods),))

service = GrpcService("shop", add)
state = {"well": True}

@service.resource
async def database():
    yield "open"
    print("closed", os.getpid(), flush=True)

@service.check(every_s=0.2)
def healthy():
    return not os.path.exists("ill")
"""


@asynccontextmanager
async def serving(folder: Path, *options: str, app: str = APP, target: str = "app:add") -> AsyncIterator[Server]:
    with served(folder, "--grpc", *options, app=app, target=target) as server:
        yield server


def channel_to(server: Server) -> Any:
    """A connection of its own."""
    return grpc.aio.insecure_channel(
        f"127.0.0.1:{server.port}", options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    )


async def say(channel: Any, request: bytes = b"", **options: Any) -> bytes:
    answer: bytes = await channel.unary_unary("/shop.Shop/Say")(request, **{"timeout": PATIENCE_S, **options})
    return answer


async def health(channel: Any, name: str = "") -> int:
    ask = health_pb2_grpc.HealthStub(channel).Check
    answer = await ask(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S)
    return int(answer.status)


async def rest(stream: Any) -> list[bytes]:
    """What is yet to come."""
    found = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        found.append(message)
    return found


async def wait_until(true: Any, what: str) -> None:
    await asyncio.to_thread(until, true, what)


class Load:
    """Clients that go on calling: some on a kept channel, some on a new one each time, some with streams."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = False
        self.answered = self.streams = 0
        self.lost: list[str] = []

    async def __aenter__(self) -> Load:
        clients = [self._kept(), self._kept(), self._kept(), self._fresh(), self._streaming(), self._streaming()]
        self._tasks = [asyncio.ensure_future(client) for client in clients]
        await asyncio.sleep(0.3)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.3)
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _kept(self) -> None:
        async with channel_to(self._server) as channel:
            while not self._over:
                await self._call(channel)
                await asyncio.sleep(0.003)

    async def _fresh(self) -> None:
        while not self._over:
            async with channel_to(self._server) as channel:
                await self._call(channel)

    async def _call(self, channel: Any) -> None:
        try:
            await say(channel, b"sleep 0.002")
            self.answered += 1
        except grpc.aio.AioRpcError as error:
            self.lost.append(f"{error.code()}: {error.details()}")

    async def _streaming(self) -> None:
        async with channel_to(self._server) as channel:
            while not self._over:
                try:
                    got = [message async for message in channel.unary_stream("/shop.Shop/Count")(b"20")]
                    assert got[-1] == b"19"
                    self.streams += 1
                except grpc.aio.AioRpcError as error:
                    self.lost.append(f"stream: {error.code()}: {error.details()}")


async def test_calls_of_each_kind_are_answered_and_counted(short_dir: Path) -> None:
    async with serving(short_dir, "--access-log") as server, channel_to(server) as channel:

        async def numbers() -> AsyncIterator[bytes]:
            for number in (b"1", b"2", b"3"):
                yield number

        assert (await say(channel)).startswith(b"1 ")
        assert [m async for m in channel.unary_stream("/shop.Shop/Count")(b"3")] == [b"0", b"1", b"2"]
        assert await channel.stream_unary("/shop.Shop/Add")(numbers()) == b"6"
        assert [m async for m in channel.stream_stream("/shop.Shop/Echo")(numbers())] == [b"1", b"2", b"3"]
        assert await channel.unary_unary("/shop.Shop/Block")(b"0.01") == b"%d" % server.workers()[0]
        for request, code in ((b"fail", Code.UNKNOWN), (b"abort", Code.NOT_FOUND)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(channel, request)
            assert caught.value.code() is code
        for method, code in (("Nothing", Code.UNIMPLEMENTED), ("Block", Code.NOT_FOUND)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/shop.Shop/{method}")(b"abort")
            assert caught.value.code() is code
        metrics = server.ask("/metrics")[2].decode()
        for method, status in (
            ("Say", "OK"),
            ("Say", "UNKNOWN"),
            ("Say", "NOT_FOUND"),
            ("Count", "OK"),
            ("Block", "OK"),
        ):
            kind = {"OK": "2xx", "UNKNOWN": "5xx"}.get(status, "4xx")
            labels = f'code="{status}",method="gRPC",route="shop.Shop/{method}",status="{kind}"'
            assert re.search(rf"^gapless_requests_total\{{{labels}\}} 1", metrics, re.MULTILINE), metrics
        server.counts("gapless_requests_total", 8)
        assert "Nothing" not in metrics
        await wait_until(lambda: "gRPC /shop.Shop/Say NOT_FOUND" in server.err, "the call is logged")


async def test_traced_failed_and_unknown_calls_in_openmetrics(short_dir: Path) -> None:
    """A trace is found at its bucket, a failed call's too; methods that nobody has serve no label."""
    trace, header = "4bf92f3577b34da6a3ce929d0e0e4736", "application/openmetrics-text"
    async with serving(short_dir) as server, channel_to(server) as channel:
        await channel.unary_unary("/shop.Shop/Say")(b"", metadata=(("traceparent", f"00-{trace}-{'1' * 16}-01"),))
        with pytest.raises(grpc.aio.AioRpcError):
            await say(channel, b"fail")
        request = f"GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {header}\r\n\r\n".encode()
        text = (await asyncio.to_thread(exchange, connected(server.admin), request))[2].decode()
    buckets = [line for line in text.splitlines() if line.startswith("gapless_request_duration_seconds_bucket")]
    traced = {re.findall(r'(?:code|trace_id)="(\w+)"', line)[0]: line for line in buckets if "# {" in line}
    assert set(traced) == {"OK", "UNKNOWN"}
    assert f'# {{trace_id="{trace}"}}' in traced["OK"]
    assert 'route="shop.Shop/Say"' in traced["OK"]


async def test_deadline_request_id_and_peer_are_known_inside(short_dir: Path) -> None:
    async with serving(short_dir) as server, channel_to(server) as channel:
        assert 0 < float(await say(channel, b"left", timeout=20)) <= 20.5
        assert float(await say(channel, b"left", timeout=None)) == float("inf")
        assert await say(channel, b"id", metadata=(("x-request-id", "seven"),)) == b"seven"
        assert (await say(channel, b"peer")).startswith(b"ipv4:127.0.0.1:")


async def test_health_and_reflection(short_dir: Path) -> None:
    async with serving(short_dir, target="app:service") as server, channel_to(server) as channel:
        assert await health(channel) == await health(channel, "shop.Shop") == Status.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(channel, "no.Such")
        assert caught.value.code() is Code.NOT_FOUND
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == Status.SERVING
        instance = Instance(id="a", service="a", release="1", address=Address(host="127.0.0.1", port=server.port))
        assert await probe(instance, GRPC_HEALTH) == (True, "")
        (short_dir / "ill").touch()
        assert (await watching.read()).status == Status.NOT_SERVING
        ready, why = await probe(instance, GRPC_HEALTH)
        assert not ready
        assert "healthy" in why, "the check that fails is named"
        assert server.ask("/readyz")[0] == 503
        (short_dir / "ill").unlink()
        assert (await watching.read()).status == Status.SERVING
        watching.cancel()
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked)
        names = [one.name for one in (await info.read()).list_services_response.service]
        assert names == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "shop.Shop"]
    ready, why = await probe(instance, GRPC_HEALTH)
    assert not ready
    assert f"127.0.0.1:{server.port} does not answer" in why


async def test_reloads_under_load_lose_no_call_and_bring_the_new_code(short_dir: Path) -> None:
    async with serving(short_dir, "--workers", "2") as server:
        async with Load(server) as load:
            for version in "234":
                server.write(APP.replace('VERSION = "1"', f'VERSION = "{version}"'))
                status, told = await asyncio.to_thread(server.reload)
                assert status == 200, told
                async with channel_to(server) as channel:
                    assert (await say(channel)).startswith(version.encode())
        assert load.lost == []
        assert load.answered > 100
        assert load.streams >= 2
        await wait_until(lambda: len(server.status()["workers"]) == 2, "the old ones have gone")


async def test_a_kept_channel_moves_to_the_new_code_and_a_stream_ends_where_it_began(short_dir: Path) -> None:
    async with serving(short_dir) as server, channel_to(server) as channel:
        await say(channel)
        stream = channel.unary_stream("/shop.Shop/Count")(b"40")
        assert await stream.read() == b"0"
        server.write(APP.replace('VERSION = "1"', 'VERSION = "2"'))
        assert (await asyncio.to_thread(server.reload))[0] == 200
        async with asyncio.timeout(PATIENCE_S):
            while not (await say(channel)).startswith(b"2 "):
                await asyncio.sleep(0.01)
        assert (await rest(stream))[-1] == b"39"


async def test_a_drain_says_not_serving_first_and_finishes_what_was_begun(short_dir: Path) -> None:
    async with serving(short_dir, target="app:service") as server, channel_to(server) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == Status.SERVING
        stream = channel.unary_stream("/shop.Shop/Count")(b"30")
        assert await stream.read() == b"0"
        waiting = asyncio.ensure_future(say(channel, b"sleep 1.5"))
        await wait_until(lambda: server.metric("gapless_requests_in_flight") >= 2, "both are under way")
        server.signal(signal.SIGTERM)
        assert (await watching.read()).status == Status.NOT_SERVING
        assert (await say(channel)).startswith(b"1 "), "what is asked before it stops is answered"
        assert (await waiting).startswith(b"1 ")
        assert (await rest(stream))[-1] == b"29"
        assert await asyncio.to_thread(server.wait) == 0
        assert "closed" in server.out
        assert session(server.pid) == []


async def test_what_takes_longer_than_the_drain_is_cut_and_named(short_dir: Path) -> None:
    async with serving(short_dir, "--drain", "2") as server, channel_to(server) as channel:
        stream = channel.unary_stream("/shop.Shop/Count")(b"100000")
        assert await stream.read() == b"0"
        server.signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            await rest(stream)
        assert await asyncio.to_thread(server.wait) == 0
        server.says("over the drain limit: gRPC /shop.Shop/Count")


async def test_code_that_cannot_be_imported_is_refused_and_the_old_one_answers(short_dir: Path) -> None:
    async with serving(short_dir) as server, channel_to(server) as channel:
        for bad in ("import no_such_thing", "def add(server):\n    1/0", "def add(server):\n    pass"):
            server.write(bad)
            status, told = await asyncio.to_thread(server.reload)
            assert status == 422, told
            assert (await say(channel)).startswith(b"1 ")
        assert "no servicer was added" in told["error"]


async def test_a_lost_worker_is_replaced(short_dir: Path) -> None:
    async with serving(short_dir, "--workers", "2") as server:
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        await wait_until(lambda: len(set(server.workers()) - {before[0]}) == 2, "it is replaced")
        async with channel_to(server) as channel:
            assert (await say(channel)).startswith(b"1 ")


async def test_workers_share_the_connections(short_dir: Path) -> None:
    async with serving(short_dir, "--workers", "2") as server:
        seen = set()
        for _ in range(60):
            async with channel_to(server) as channel:
                seen.add(await say(channel))
        assert len(seen) == 2


async def test_a_unix_socket(short_dir: Path) -> None:
    path = short_dir / "grpc.sock"
    async with serving(short_dir, "--bind", f"unix:{path}"), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert (await say(channel)).startswith(b"1 ")
        assert await say(channel, b"peer") == b"unix:"


async def test_tls_and_a_reload_behind_it(short_dir: Path) -> None:
    authority = Authority(short_dir)
    trusted = grpc.ssl_channel_credentials(authority.ca_file.read_bytes())
    async with (
        serving(short_dir, *authority.options) as server,
        grpc.aio.secure_channel(f"localhost:{server.port}", trusted) as channel,
    ):
        assert (await say(channel)).startswith(b"1 ")
        stream = channel.unary_stream("/shop.Shop/Count")(b"30")
        assert await stream.read() == b"0"
        server.write(APP.replace('VERSION = "1"', 'VERSION = "2"'))
        assert (await asyncio.to_thread(server.reload))[0] == 200
        async with asyncio.timeout(PATIENCE_S):
            while not (await say(channel)).startswith(b"2 "):
                await asyncio.sleep(0.01)
        assert (await rest(stream))[-1] == b"29"
        with pytest.raises(grpc.aio.AioRpcError):
            async with channel_to(server) as plain:
                await say(plain, timeout=3)


async def test_the_death_of_the_master_loses_no_call(short_dir: Path) -> None:
    async with serving(short_dir) as server:
        master = server.status()["master"]
        async with Load(server) as load:
            os.kill(master, signal.SIGKILL)
            await wait_until(lambda: server.status()["master"] != master, "another one has adopted the worker")
            assert (await asyncio.to_thread(server.reload))[0] == 200
        assert load.lost == []


def test_what_is_no_grpc_app_is_refused(short_dir: Path) -> None:
    server = Server(short_dir, "--grpc", app="async def app(scope, receive, send): ...")
    try:
        assert server.wait() == 4
        server.says("'app:app' is no gRPC app")
        server.says("def add(server)")
    finally:
        server.end()


async def test_no_call_is_lost_when_master_and_keeper_are_killed(short_dir: Path) -> None:
    async with serving(short_dir) as server:
        async with Load(server) as load:
            for who in ("master", "pid", "master"):
                victim = server.status()[who]
                os.kill(victim, signal.SIGKILL)
                await wait_until(lambda who=who, victim=victim: server.status()[who] != victim, "it is replaced")
            assert (await asyncio.to_thread(server.reload))[0] == 200
        assert load.lost == []
        assert load.answered > 100
        assert server.status()["generation"] == 2
        os.kill(server.status()["pid"], signal.SIGTERM)
        await wait_until(lambda: session(server.pid, zombies=True) == [], "all have ended")

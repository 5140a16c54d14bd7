"""Mirrored requests behind a real Envoy, with a real comparer: what the new release gets, what is compared, and that
nothing a shadow does is felt by a user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gapless.control.gates.comparer import ComparerProcess, start_comparer
from gapless.control.gates.scene import MARK, Scene, mark_of
from gapless.core.model import Address, Endpoint, Network, ServiceTable
from gapless.core.model.mirror import MirrorPlan, MirrorTarget
from gapless.core.world import RealWorld
from gapless.fleet import process as processes
from gapless.load.run import Load
from gapless.load.spec import LoadSpec
from gapless.load.summary import Summary
from tests.integration.envoy_kit import HOST, Client, Rig, ask, eventually, running, service, table
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMIT_S = 60.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


@asynccontextmanager
async def listening(serve: Callable[..., Awaitable[None]]) -> AsyncIterator[Address]:
    """A server of which a test says what it does with a connection."""
    tasks: set[asyncio.Task[Any]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, HOST, 0, limit=1 << 20)
    try:
        yield Address(host=HOST, port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Shop:
    """An instance: answers `value` as JSON. A callable is asked for it each time."""

    value: Any
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    wait_s: float = 0.0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
            await self._body(reader, headers)
            self.seen.append((head[0].rpartition(" ")[0], headers))
            await asyncio.sleep(self.wait_s)
            body = json.dumps(self.value() if callable(self.value) else self.value).encode()
            lines = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(lines.encode() + body)
            await writer.drain()

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> None:
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        else:
            await reader.readexactly(int(headers.get("content-length", 0)))

    @property
    def mirrored(self) -> list[tuple[str, dict[str, str]]]:
        return [(line, headers) for line, headers in self.seen if "x-gapless-mirror" in headers]


def mirrored(stable: Address, target: Address, share: int = 10_000, **more: Any) -> ServiceTable:
    endpoint = Endpoint(instance="old", release="1", address=stable)
    return replace(service([endpoint]), mirror=MirrorTarget(address=target, share=share, **more))


@asynccontextmanager
async def comparer(tmp_path: Path, plan: MirrorPlan) -> AsyncIterator[ComparerProcess]:
    scene = Scene(service="o", release="2", base=tmp_path, scratch=tmp_path, mark=mark_of(tmp_path, "o", 1, "mirror"))
    found = await start_comparer(plan, scene, RealWorld())
    try:
        yield found
    finally:
        await found.stop()
        assert processes.marked(f"{MARK}={tmp_path}") == []


async def until_compared(found: ComparerProcess, count: int) -> None:
    await eventually(lambda: found.tally.compared + found.tally.skipped >= count, LIMIT_S)


async def test_the_new_release_gets_what_users_ask_without_their_credentials(rig: Rig, tmp_path: Path) -> None:
    old, new = Shop({"total": 3, "at": 1}), Shop({"total": 3, "at": 2})
    async with listening(old) as stable, listening(new) as fresh:
        plan = MirrorPlan(new=(fresh,), stable=(stable,), ignore=("$.at",))
        async with comparer(tmp_path, plan) as found:
            assert found.address
            await rig.traffic.apply(table(mirrored(stable, found.address)))
            secret = {"x-gapless-mirror": "1", "authorization": "Bearer x", "cookie": "session=1", "x-user-id": "u7"}
            for _ in range(5):
                reply = await ask(rig.port, "/orders/7?full=1", host="shop.example", headers=secret)
                assert (reply.status, json.loads(reply.body)) == (200, {"total": 3, "at": 1})
            await ask(rig.port, "/orders", method="POST", headers={"x-gapless-mirror": "1"})
            await until_compared(found, 5)
            assert (found.tally.compared, found.tally.different) == (5, 0)
    assert [line for line, _ in new.seen] == ["GET /orders/7?full=1"] * 5
    for _, headers in new.seen:
        assert headers["x-gapless-mirror"] == "1"
        assert headers["host"] == "shop.example"
        assert headers["x-user-id"] == "u7"
        assert not {"authorization", "cookie"} & headers.keys()
    users = [headers for _, headers in old.seen if "x-gapless-mirror" not in headers]
    assert len(users) == 6  # five and the POST, each with what it had, but for the mark, which is ours
    assert users[0]["authorization"] == "Bearer x"


async def test_differences_are_found_and_what_changes_by_itself_is_none(rig: Rig, tmp_path: Path) -> None:
    numbers = iter(range(10_000))
    old = Shop(lambda: {"id": next(numbers), "total": 3, "items": [{"n": 1}]})
    new = Shop(lambda: {"id": next(numbers), "total": "3", "items": [{"n": 1}]})
    async with (
        listening(old) as stable,
        listening(new) as fresh,
        comparer(tmp_path, MirrorPlan(new=(fresh,), stable=(stable,))) as found,
    ):
        assert found.address
        await rig.traffic.apply(table(mirrored(stable, found.address)))
        for _ in range(4):
            await ask(rig.port, "/orders?token=secret")
        await until_compared(found, 4)
        assert found.tally.places == {"$.total": 4}
        assert found.tally.examples[0] == "GET /orders?token=…: $.total: number → string"
        found.follow(MirrorPlan(new=(stable,), stable=(stable,)))  # the same release: only its own changes
        await asyncio.sleep(0.2)
        for _ in range(4):
            await ask(rig.port, "/orders")
        await until_compared(found, 8)
        assert found.tally.different == 4
        assert found.tally.noisy == 4


async def test_unsafe_methods_are_mirrored_only_when_asked_for_and_never_asked_of_the_stable_release_again(
    rig: Rig, tmp_path: Path
) -> None:
    old, new = Shop({"ok": True}), Shop({"ok": False})
    async with (
        listening(old) as stable,
        listening(new) as fresh,
        comparer(tmp_path, MirrorPlan(new=(fresh,), stable=(stable,))) as found,
    ):
        assert found.address
        await rig.traffic.apply(table(mirrored(stable, found.address, methods=("GET", "POST"))))
        await ask(rig.port, "/orders", method="POST")
        await eventually(lambda: found.tally.unsafe == 1, LIMIT_S)
    assert [line for line, _ in new.seen] == ["POST /orders"]
    assert [line for line, _ in old.seen] == ["POST /orders"]


async def load(port: int, **more: Any) -> Summary:
    spec = LoadSpec(url=f"http://{HOST}:{port}/orders", rate=100, for_s=1.5, connections=8, timeout_s=20.0, **more)
    return await Load(spec, RealWorld()).run()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


async def talk_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"\x00\xff garbage\r\n\r\n" * 100)
    await writer.drain()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.transport.abort()


async def answer_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)  # it shares its processor with the client


SHADOWS = [hang, talk_garbage, hang_up, answer_for_ever]


@pytest.mark.parametrize("serve", SHADOWS, ids=lambda serve: serve.__name__)
async def test_nothing_that_a_shadow_does_is_felt_by_users(rig: Rig, serve: Any) -> None:
    """The gateway itself is given a shadow that misbehaves, instead of the comparer."""
    async with listening(Shop({"ok": True})) as stable, listening(serve) as shadow:
        await rig.traffic.apply(table(mirrored(stable, shadow)))
        found = await load(rig.port)
        assert (found.lost_total, found.answered) == (0, found.requests), found


async def test_a_shadow_that_is_not_there_is_not_felt_either(rig: Rig) -> None:
    nobody = Address(host=HOST, port=free_port(HOST))
    async with listening(Shop({"ok": True})) as stable:
        await rig.traffic.apply(table(mirrored(stable, nobody)))
        found = await load(rig.port)
        assert (found.lost_total, found.answered) == (0, found.requests), found


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_huge_body_arrives_although_a_shadow_takes_nothing(rig: Rig, chunked: bool) -> None:
    """Envoy would read it no faster than its shadow takes it."""
    async with listening(Shop({"ok": True})) as stable, listening(hang) as shadow:
        await rig.traffic.apply(table(mirrored(stable, shadow, methods=("GET", "POST"))))
        async with asyncio.timeout(LIMIT_S):
            assert await upload(rig.port, 8 << 20, chunked=chunked) == b"HTTP/1.1 200 OK\r\n"
            for _ in range(40):  # more than the gateway lets a shadow have at once
                assert await upload(rig.port, 48 << 10, chunked=chunked) == b"HTTP/1.1 200 OK\r\n"


async def upload(port: int, size: int, *, chunked: bool) -> bytes:
    """The first line of the answer."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        length = "transfer-encoding: chunked" if chunked else f"content-length: {size}"
        writer.write(f"POST /orders HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n".encode())
        for _ in range(size >> 14):
            part = b"x" * 16_384
            writer.write(b"4000\r\n" + part + b"\r\n" if chunked else part)
            await writer.drain()
        writer.write(b"0\r\n\r\n" if chunked else b"")
        return await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("serve", [hang, talk_garbage, answer_for_ever], ids=lambda serve: serve.__name__)
async def test_a_new_release_that_misbehaves_is_found_out_and_no_user_feels_it(
    rig: Rig, tmp_path: Path, serve: Any
) -> None:
    async with listening(Shop({"ok": True})) as stable, listening(serve) as fresh:
        plan = MirrorPlan(new=(fresh,), stable=(stable,), timeout_s=1.0)
        async with comparer(tmp_path, plan) as found:
            assert found.address
            await rig.traffic.apply(table(mirrored(stable, found.address)))
            seen = await load(rig.port)
            assert seen.lost_total == 0, seen
            await eventually(lambda: found.tally.different > 0, LIMIT_S)
            assert found.tally.different + found.tally.noisy == found.tally.compared


async def test_a_killed_comparer_is_noticed_and_no_user_feels_it(rig: Rig, tmp_path: Path) -> None:
    async with (
        listening(Shop({"ok": True})) as stable,
        comparer(tmp_path, MirrorPlan(new=(stable,), stable=(stable,))) as found,
    ):
        assert found.address
        await rig.traffic.apply(table(mirrored(stable, found.address)))
        (stat,) = processes.marked(f"{MARK}={tmp_path}")
        client = Client(rig.port)
        for n in range(60):
            if n == 20:
                os.kill(stat.pid, signal.SIGKILL)
            assert (await client.ask("/orders")).status == 200
        await client.close()
        await eventually(lambda: found.address is None, LIMIT_S)


async def test_a_comparer_listens_where_gateways_elsewhere_reach_it(tmp_path: Path) -> None:
    scene = Scene(service="o", release="2", base=tmp_path, scratch=tmp_path, mark=mark_of(tmp_path, "o", 1, "mirror"))
    network = Network(bind="0.0.0.0", advertise="127.0.0.2")
    found = await start_comparer(MirrorPlan(), scene, RealWorld(), network)
    try:
        assert found.address is not None
        assert found.address.host == network.advertise
        _, writer = await asyncio.open_connection(found.address.host, found.address.port)
        writer.close()
    finally:
        await found.stop()


async def test_a_comparer_ends_with_whoever_has_started_it(tmp_path: Path) -> None:
    scene = Scene(service="o", release="2", base=tmp_path, scratch=tmp_path, mark=mark_of(tmp_path, "o", 1, "mirror"))
    found = await start_comparer(MirrorPlan(), scene, RealWorld())
    os.close(found._plans)  # as the kernel does when a control plane is killed
    found._plans = -1
    await eventually(lambda: processes.marked(f"{MARK}={tmp_path}") == [], LIMIT_S)
    await found.stop()


async def test_a_comparer_that_cannot_be_told_a_mask_is_no_comparer(tmp_path: Path) -> None:
    from gapless.core.errors import GaplessError

    scene = Scene(service="o", release="2", base=tmp_path, scratch=tmp_path, mark=mark_of(tmp_path, "o", 1, "mirror"))
    with pytest.raises(GaplessError, match="ended at once"):
        await start_comparer(MirrorPlan(ignore=("$ oh",)), scene, RealWorld())

"""Several gateways on one control plane: all obey, none holds up the others, strangers are sent away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from gapless.core.errors import GaplessError, PortTaken, TrafficRefused
from gapless.core.model import BUCKETS, Address, Door
from gapless.core.world import RealWorld
from gapless.gateway.envoy import remote
from gapless.gateway.envoy.bootstrap import Control
from gapless.gateway.envoy.nodes import Place
from gapless.gateway.envoy.remote import RemoteGateway
from tests.integration.envoy_kit import HOST, Rig, ask, eventually, gateway, service, table
from tests.integration.tls_kit import Authority
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "s3cret/+_=="
ACKNOWLEDGE_S = 3.0


def address() -> Address:
    return Address(host=HOST, port=free_port(HOST))


@asynccontextmanager
async def rig_with(door: Door) -> AsyncIterator[Rig]:
    state = Path(tempfile.mkdtemp(prefix="g-"))
    port = free_port(HOST)
    events: list = []  # type: ignore[type-arg]
    rig = Rig(gateway(port, state, events, door=door, acknowledge_s=ACKNOWLEDGE_S), port, state, events)
    try:
        await rig.traffic.start()
        yield rig
    finally:
        for upstream in rig.upstreams:
            await upstream.stop()
        await rig.traffic.stop(drain_s=1)
        shutil.rmtree(state)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def control() -> Control:
    return Control(addresses=(address(),), token=TOKEN)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(control: Control) -> AsyncIterator[Rig]:
    async with rig_with(Door(listen=control.addresses[0], token=TOKEN)) as found:
        upstream = await found.upstream("old")
        await found.traffic.apply(table(service([upstream.endpoint()])))
        yield found


@asynccontextmanager
async def elsewhere(control: Control, name: str = "edge", zone: str = "") -> AsyncIterator[tuple[RemoteGateway, int]]:
    """A gateway that serves, and its port."""
    folder = Path(tempfile.mkdtemp(prefix="e-"))
    place = Place(address(), zone)
    found = RemoteGateway(control, place, name, folder, RealWorld(), lambda pid, restarts: None)
    try:
        await found.start()
        yield found, place.listen.port
    finally:
        if found.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGCONT)
        await found.stop(drain_s=1)
        shutil.rmtree(folder)


async def row(rig: Rig, name: str) -> dict[str, object]:
    found = [row for row in (await rig.traffic.details())["gateways"] if row["node"] == name]
    return found[0] if found else {}


async def joined(rig: Rig, name: str = "edge") -> None:
    """Until the control plane has heard that it obeys."""
    async with asyncio.timeout(30):
        while not (await row(rig, name)).get("acknowledged"):
            await asyncio.sleep(0.02)


async def test_both_obey_and_what_both_answer_is_summed(rig: Rig, control: Control) -> None:
    old, new = await rig.upstream("old"), await rig.upstream("new")
    async with elsewhere(control) as (_, port):
        await joined(rig)
        both = [old.endpoint(), new.endpoint("2")]
        await rig.traffic.apply(table(service(both), version=2))
        assert {(await ask(p, "/orders")).release for p in (rig.port, port)} == {"1"}
        await rig.traffic.apply(table(service(both, canary=BUCKETS), version=3))
        for _ in range(3):
            assert {(await ask(p, "/orders")).release for p in (rig.port, port)} == {"2"}
        told = await row(rig, "edge")
        assert (told["address"], told["acknowledged"], told["lagging"]) == (f"{HOST}:{port}", 3, False)

        async def requests() -> int:
            return (await rig.traffic.window("orders", "2", 0, float("inf"))).requests

        async with asyncio.timeout(20):
            while await requests() < 6:
                await asyncio.sleep(0.05)
        assert await requests() == 6


async def test_a_killed_one_is_back_with_the_newest_routes(rig: Rig, control: Control) -> None:
    old, new = await rig.upstream("old"), await rig.upstream("new")
    both = [old.endpoint(), new.endpoint("2")]
    await rig.traffic.apply(table(service(both), version=10))
    async with elsewhere(control) as (edge, port):
        await joined(rig)
        killed = edge.pid
        os.kill(killed, signal.SIGKILL)
        await rig.traffic.apply(table(service(both, canary=BUCKETS), version=11))

        async def answers() -> str:
            with contextlib.suppress(OSError):
                return (await ask(port, "/orders")).release
            return ""

        async with asyncio.timeout(30):
            while await answers() != "2":
                await asyncio.sleep(0.05)
        assert edge.pid != killed
        await joined(rig)
        await rig.traffic.apply(table(service(both), version=12))
        assert await answers() == "1"


async def test_a_hung_one_is_waited_for_once(rig: Rig, control: Control) -> None:
    old = await rig.upstream("old")
    async with elsewhere(control) as (edge, port):
        await joined(rig)
        os.kill(edge.pid, signal.SIGSTOP)
        loop = asyncio.get_running_loop()
        for version in (21, 22):
            began = loop.time()
            await rig.traffic.apply(table(service([old.endpoint()], timeout_s=version), version=version))
        assert loop.time() - began < ACKNOWLEDGE_S
        assert (await row(rig, "edge"))["lagging"]
        os.kill(edge.pid, signal.SIGCONT)
        await rig.traffic.apply(table(service([old.endpoint()]), version=23))

        async with asyncio.timeout(30):
            while (await row(rig, "edge")).get("acknowledged") != 23:
                await asyncio.sleep(0.05)
        assert (await ask(port, "/orders")).release == "1"


async def test_one_that_is_stopped_finishes_what_it_has_begun(rig: Rig, control: Control) -> None:
    old = await rig.upstream("old")
    await rig.traffic.apply(table(service([old.endpoint()], timeout_s=14), version=25))
    async with elsewhere(control) as (edge, port):
        slow = asyncio.create_task(ask(port, "/orders?wait=1", method="POST"))
        await eventually(lambda: any("wait=1" in path for _, path, _ in old.seen), 30)
        await edge.stop(drain_s=30)
        assert (await slow).body == b"old"
        with pytest.raises(OSError, match="Connect call failed"):
            await ask(port, "/orders")


async def test_one_that_cannot_serve_yet_holds_up_nobody(rig: Rig, control: Control) -> None:
    """Its address is taken, after it has looked: it refuses the listener, and the others go on."""
    old = await rig.upstream("old")
    folder = Path(tempfile.mkdtemp(prefix="e-"))
    place = Place(Address(host=HOST, port=rig.port))
    with pytest.raises(PortTaken, match="--listen"):
        await RemoteGateway(control, place, "late", folder, RealWorld(), lambda *_: None).start()
    late = RemoteGateway(control, place, "late", folder, RealWorld(), lambda *_: None)
    process = late._process = late._new_process()
    try:
        await process.start()
        async with asyncio.timeout(30):
            while "in use" not in str((await row(rig, "late")).get("refused", "")):
                await asyncio.sleep(0.05)
        await rig.traffic.apply(table(service([old.endpoint()], timeout_s=9), version=30))
        assert rig.traffic.settled
    finally:
        await late.stop(drain_s=0)
        shutil.rmtree(folder)


async def test_what_a_gateway_refuses_is_refused_in_its_name(rig: Rig, control: Control) -> None:
    old = await rig.upstream("old")
    good = service([old.endpoint()])
    async with elsewhere(control, "edge-7") as (_, port):
        await joined(rig, "edge-7")
        await rig.traffic.apply(table(good, version=40))
        os.kill(rig.traffic.pid, signal.SIGSTOP)  # so that it is the other one that refuses
        try:
            with pytest.raises(TrafficRefused, match="gateway edge-7 refuses the routes"):
                await rig.traffic.apply(table(replace(good, timeout_s=-1.0), version=41))
        finally:
            os.kill(rig.traffic.pid, signal.SIGCONT)
        await rig.traffic.apply(table(good, version=42))
        assert {(await ask(p, "/orders")).status for p in (rig.port, port)} == {200}


@pytest.mark.parametrize("token", ["", "another"])
async def test_a_wrong_token_is_refused_at_once(rig: Rig, control: Control, token: str) -> None:
    with pytest.raises(GaplessError, match="refuses us") as caught:
        async with elsewhere(replace(control, token=token)):
            pass
    assert "--token-file" in caught.value.remedy


async def test_a_control_plane_that_is_not_there_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONTROL_S", 0.5)
    with pytest.raises(GaplessError, match="no control plane answers"):
        async with elsewhere(Control(addresses=(address(),))):
            pass


async def test_mutual_tls(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONTROL_S", 0.5)
    ours = Authority(short_dir)
    pair = {"cert": str(ours.cert), "key": str(ours.key)}
    door = Door(listen=address(), client_ca=str(ours.ca_file), **pair)
    trusting = Control(addresses=(door.listen,), ca=str(ours.ca_file))
    async with rig_with(door) as rig:
        upstream = await rig.upstream("old")
        await rig.traffic.apply(table(service([upstream.endpoint()])))
        async with elsewhere(replace(trusting, **pair)) as (_, port):
            assert (await ask(port, "/orders")).status == 200
        for stranger in (trusting, Control(addresses=(door.listen,))):
            with pytest.raises(GaplessError, match="no control plane answers"):
                async with elsewhere(stranger):
                    pass


async def test_over_ipv6_and_by_name_with_one_that_is_not_there(short_dir: Path) -> None:
    """The one that is not there stands by: the other one leads. A name may stand for addresses where nobody listens."""
    ours, port = Authority(short_dir), free_port("127.0.0.1")
    door = Door(listen=Address(host="::1", port=port), token=TOKEN, cert=str(ours.cert), key=str(ours.key))
    told = partial(Control, token=TOKEN, ca=str(ours.ca_file))
    async with rig_with(door) as rig:
        upstream = await rig.upstream("old")
        await rig.traffic.apply(table(service([upstream.endpoint()])))
        for asked in ((address(), door.listen), (Address(host="localhost", port=port),)):
            async with elsewhere(told(addresses=asked)) as (_, gate):
                assert (await ask(gate, "/orders")).status == 200
                await joined(rig)
        with pytest.raises(GaplessError, match=r"control plane at \[::1\]:\d+ refuses us"):
            async with elsewhere(replace(told(addresses=(address(), door.listen)), token="another")):
                pass


async def test_zones_are_each_gateways_own(rig: Rig, control: Control) -> None:
    near, far = await rig.upstream("near"), await rig.upstream("far")
    endpoints = [replace(near.endpoint(), zone="b"), replace(far.endpoint(), zone="a")]
    both = service(endpoints)
    both = replace(both, upstream=replace(both.upstream, zones=("a", "b")))
    await rig.traffic.apply(table(both, version=50))
    async with elsewhere(control, zone="b") as (_, port):
        await joined(rig)
        await eventually(lambda: rig.traffic._stage is not None and "b" in rig.traffic._stage.zoned, 20)
        await rig.traffic.apply(table(both, version=51))
        assert {(await ask(port, "/orders")).body for _ in range(8)} == {b"near"}
        assert {(await ask(rig.port, "/orders")).body for _ in range(20)} == {b"near", b"far"}

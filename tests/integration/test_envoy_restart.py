"""Envoy's own restart and upgrade: no request is lost, and a failed one changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gapless.core.errors import Busy, GaplessError
from gapless.gateway.envoy.epochs import running as epochs_running
from gapless.gateway.envoy.process import find_binary
from tests.integration.envoy_kit import HOST, Client, Rig, Upstream, ask, eventually, gateway, service, table
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    state = Path(tempfile.mkdtemp(prefix="g-"))
    port = free_port(HOST)
    rig = Rig(gateway(port, state, []), port, state, [])
    try:
        await rig.traffic.start()
        yield rig
    finally:
        for upstream in rig.upstreams:
            await upstream.stop()
        await rig.traffic.stop(drain_s=1)
        shutil.rmtree(state)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Load:
    """Clients that ask without pause, half of them on a new connection each time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopping = False
        self.counts: Counter[int] = Counter()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run(keep=bool(n % 2))) for n in range(8)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _run(self, *, keep: bool) -> None:
        client, method = Client(self._port), "GET" if keep else "POST"
        while not self._stopping:
            try:
                self.counts[(await client.ask("/orders", method=method)).status] += 1
            except OSError:
                self.counts[-1] += 1
            if not keep:
                await client.close()
        await client.close()

    async def more(self, answers: int) -> None:
        until = self.counts[200] + answers
        await eventually(lambda: self.counts[200] >= until, 30)


async def test_a_hot_restart_loses_nothing_and_a_long_request_survives_it(rig: Rig) -> None:
    upstream = await rig.upstream("old")
    await rig.traffic.apply(table(service([upstream.endpoint()])))
    old = rig.traffic.pid
    slow = asyncio.create_task(ask(rig.port, "/orders?wait=6", method="POST"))
    await eventually(lambda: any("wait=6" in path for _, path, _ in upstream.seen))
    async with Load(rig.port) as load:
        await load.more(100)
        await rig.traffic.renew()
        await load.more(300)
        details = await rig.traffic.details()
        assert (details["pid"] != old, details["epoch"], details["leaving"]) == (True, 1, old)
        with pytest.raises(Busy, match=rf"pid {old}\) still has \d+ connection"):
            await rig.traffic.renew()
        await rig.traffic.apply(table(service([upstream.endpoint()], canary=1), version=2))  # both are told
        await load.more(100)
    assert set(load.counts) == {200}
    assert (await slow).body == b"old"
    async with Load(rig.port) as load:  # the oldest has nothing left to do, and is ended by the next
        await load.more(50)
        await rig.traffic.renew()
        await eventually(lambda: not alive(old), 20)
        await load.more(50)
    assert set(load.counts) == {200}
    assert (await rig.traffic.details())["epoch"] == 2


def script(directory: Path, text: str) -> Path:
    path = directory / "envoy-other"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo cannot run here; exit 3", "exit status 3.*cannot run here"),
        ('case "$*" in *validate*) exit 0;; esac; echo broken later; exit 1', "ended(.|\\n)*broken later"),
    ],
    ids=["at once", "later"],
)
async def test_a_new_epoch_that_fails_leaves_the_old_one_serving(rig: Rig, text: str, why: str) -> None:
    upstream = await rig.upstream("old")
    await rig.traffic.apply(table(service([upstream.endpoint()])))
    old = rig.traffic.pid
    async with Load(rig.port) as load:
        await load.more(50)
        with pytest.raises(GaplessError, match=why):
            await rig.traffic.renew(script(rig.state, text))
        await load.more(50)
    assert set(load.counts) == {200}
    assert rig.traffic.pid == old
    await rig.traffic.renew()
    assert rig.traffic.pid != old
    assert (await ask(rig.port, "/orders")).status == 200


CONTROL = """
import asyncio, sys
from pathlib import Path
from tests.integration.envoy_kit import gateway, service, table
from gapless.core.model import Address, Endpoint
from gapless.gateway.envoy.process import EnvoyProcess
async def until_live(self, new):
    print(new.epoch.pid, flush=True)
    await asyncio.sleep(60)
async def main(port, state, upstream, served):
    traffic = gateway(port, Path(state), [])
    await traffic.start()
    endpoint = Endpoint(instance="i", release="1", address=Address(host="127.0.0.1", port=upstream))
    await traffic.apply(table(service([endpoint])))
    if not served:
        await traffic._server.stop()  # as if it had been killed before the new epoch heard anything
    print(traffic.pid, flush=True)
    EnvoyProcess._until_live = until_live
    await traffic.renew()
asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "served"))
"""


@pytest.mark.parametrize("served", ["served", "unserved", "dead"])
async def test_a_control_plane_killed_in_the_middle_leaves_an_envoy_that_the_next_one_adopts(
    short_dir: Path, served: str
) -> None:
    upstream = await Upstream("old").start()
    port = free_port(HOST)
    argv = [sys.executable, "-c", CONTROL, str(port), str(short_dir), str(upstream.port), served]
    control = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert control.stdout is not None
    old, new = int(await control.stdout.readline()), int(await control.stdout.readline())
    control.kill()
    await control.wait()
    if served == "dead":
        os.kill(new, signal.SIGKILL)
        await eventually(lambda: not alive(new))
    later = gateway(port, short_dir, [])
    try:
        async with Load(port) as load:
            await load.more(20)
            await later.start()
            assert later.adopted
            await later.apply(table(service([upstream.endpoint()], canary=2), version=2))
            await load.more(50)
            await eventually(lambda: later.pid == (old if served == "dead" else new), 30)
            await load.more(50)
        assert set(load.counts) == {200}
    finally:
        await later.stop()
        await upstream.stop()
    assert epochs_running(short_dir / "envoy", short_dir) == []


async def test_another_configured_binary_takes_over_when_the_next_control_plane_comes(rig: Rig) -> None:
    upstream = await rig.upstream("old")
    found = table(service([upstream.endpoint()]))
    await rig.traffic.apply(found)
    old = rig.traffic.pid
    await rig.traffic.detach()
    other = rig.state / "envoy-new"
    shutil.copy(find_binary(None), other)
    rig.traffic = gateway(rig.port, rig.state, rig.events, binary=other)
    await rig.traffic.start()
    assert rig.traffic.pid == old
    async with Load(rig.port) as load:
        await rig.traffic.apply(found)
        await eventually(lambda: rig.traffic.pid != old, 30)
        await load.more(50)
    assert set(load.counts) == {200}
    assert (await rig.traffic.details())["envoy"] == str(other)
    await rig.traffic.detach()
    pid = rig.traffic.pid
    rig.traffic = gateway(rig.port, rig.state, rig.events, binary=other)
    await rig.traffic.start()
    await rig.traffic.apply(found)
    await asyncio.sleep(0.5)
    assert rig.traffic.pid == pid, "nothing has changed, and nothing is restarted"

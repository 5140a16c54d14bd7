"""Instances that Gapless's own server runs: app services."""

import asyncio
import os
import signal
import socket

import pytest

from gapless.core.errors import InvalidTransition, ReloadRefused
from gapless.core.model import Service
from tests.integration.fleet_kit import ask, build_wheel, fleet_in, instance_of, lives, make_fleet, start
from tests.integration.serve_kit import session

APP = """\
import asyncio, os
from pathlib import Path

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
SERVICE = Service(name="shop", app="shop:app", drain_s=10.0, start_s=30.0)


@pytest.fixture
def source(short_dir):
    place = short_dir / "source"
    place.mkdir()
    (place / "shop.py").write_text(APP)
    return place


@pytest.fixture
def state(short_dir):
    return short_dir / "state"


async def test_an_app_is_served_reloaded_and_drained(state, source):
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source, "shop-1", SERVICE)
        worker = int(await ask(instance))
        (before,) = await fleet.list()
        assert (state / "run" / "shop-1.sock").is_socket()
        assert "serving after" in await fleet.reload(instance)
        (after,) = await fleet.list()
        assert before == after
        while int(await ask(instance)) == worker:  # the old generation stops accepting a moment after the new one began
            await asyncio.sleep(0.02)
        slow = asyncio.create_task(ask(instance, "/slow"))
        await asyncio.sleep(0.3)
        await fleet.stop(instance, SERVICE.drain_s)
        assert (await slow).isdecimal()
        assert [r.detail for r in await fleet.list()] == ["exited with status 0"]
        await fleet.forget("shop-1")
        assert not (state / "run" / "shop-1.sock").exists()


async def test_an_app_from_a_wheel_is_served_from_its_own_environment(state, short_dir, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    code = APP.replace("str(os.getpid())", "__file__")
    wheel = build_wheel(short_dir, "shopapp", "1.0", {"shopapp.py": code})
    async with fleet_in(state) as fleet:
        instance = await start(fleet, wheel, "shop-1", Service(name="shop", app="shopapp:app"))
        assert (await ask(instance)).startswith(f"{state}/releases/")
        await fleet.reload(instance)
        assert (await ask(instance)).endswith("/site-packages/shopapp.py")


async def test_an_app_that_cannot_be_imported_tells_why(state, source):
    (source / "shop.py").write_text("import nonsense_that_is_absent\n")
    async with fleet_in(state) as fleet:
        release = await fleet.snapshot(SERVICE, source, "1", {})
        async with fleet.changed() as ticks:
            await fleet.start(instance_of("shop-1", (await fleet.allocate()).port, "shop"), release, SERVICE)
            await anext(ticks)
        assert [(r.alive, r.detail) for r in await fleet.list()] == [(False, "exited with status 4")]
        assert "nonsense_that_is_absent" in fleet.tail("shop-1")


async def test_an_adopted_app_is_reloaded_and_a_drain_goes_on_after_a_restart(state, source):
    first = make_fleet(state)
    instance = await start(first, source, "shop-1", SERVICE)
    await first.close()
    second = make_fleet(state)
    assert "generation 2" in await second.reload(instance)
    slow = asyncio.create_task(ask(instance, "/slow"))
    await asyncio.sleep(0.3)
    stopping = asyncio.create_task(second.stop(instance, SERVICE.drain_s))
    await asyncio.sleep(0.1)
    stopping.cancel()  # as if this control plane were killed
    await asyncio.gather(stopping, return_exceptions=True)
    await second.close()
    async with fleet_in(state) as third:
        await third.stop(instance, SERVICE.drain_s)
        assert (await slow).isdecimal()
        assert [r.alive for r in await third.list()] == [False]


async def test_nothing_of_a_killed_instance_is_left_behind(state, source):
    """The keeper is what the fleet watches; its master starts another one and serves on, until the fleet sweeps."""
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source, "shop-1", SERVICE)
        worker = int(await ask(instance))
        (running,) = await fleet.list()
        async with fleet.changed() as ticks:
            os.kill(running.pid, signal.SIGKILL)
            await anext(ticks)
        with pytest.raises(InvalidTransition):
            await fleet.reload(instance)
        assert lives(worker)
        await fleet.stop(instance, 0.0)
        assert not lives(worker)
        assert session(running.pid) == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((instance.address.host, instance.address.port))


async def test_a_reload_that_fails_changes_nothing(state, source):
    (source / "shop.py").write_text(
        "import os\nfrom pathlib import Path\n"
        "if Path(os.environ['BROKEN']).exists():\n    raise RuntimeError('it is broken')\n" + APP
    )
    broken = state.parent / "broken"
    service = Service(name="shop", app="shop:app", drain_s=10.0, env={"BROKEN": str(broken)})
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source, "shop-1", service)
        worker = await ask(instance)
        broken.touch()
        with pytest.raises(ReloadRefused, match="it is broken"):
            await fleet.reload(instance)
        assert await ask(instance) == worker


async def test_an_admin_socket_that_hangs_up(state, source):
    async with fleet_in(state) as fleet:
        instance = await start(fleet, source, "shop-1", SERVICE)
        (state / "run" / "shop-1.sock").unlink()
        with pytest.raises(ReloadRefused, match="No such file"):
            await fleet.reload(instance)

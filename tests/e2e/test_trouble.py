"""What goes wrong at a user's desk: one clear error each, with the remedy, and nothing half-done stays."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kit import System, until


@pytest.fixture
def fresh() -> Iterator[System]:
    """Not started yet."""
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory)
    yield system
    system.down()
    shutil.rmtree(directory)


@pytest.fixture
def system(fresh: System) -> System:
    fresh.up()
    return fresh


def test_port_taken(fresh: System) -> None:
    with socket.create_server(("127.0.0.1", fresh.port)):
        done = fresh.run("up")
    assert done.returncode == 6
    assert f"127.0.0.1:{fresh.port}" in done.stderr
    assert "gateway.listen" in done.stderr
    assert fresh.processes() == []


def test_no_envoy(fresh: System) -> None:
    fresh.file.write_text(fresh.file.read_text().replace("gateway: {", "gateway: {envoy: ./no-envoy, "))
    done = fresh.run("up")
    assert done.returncode == 12
    assert "no-envoy" in done.stderr
    assert "pip install 'gapless[gateway]'" in done.stderr
    assert fresh.processes() == []


def test_wrong_file(fresh: System) -> None:
    fresh.file.write_text(fresh.file.read_text().replace("instances:", "instancse:"))
    done = fresh.run("up")
    assert done.returncode == 2
    assert "gapless.yaml:7: services.web.instancse" in done.stderr
    assert "instances" in done.stderr
    assert not fresh.state.exists()


def test_two_control_planes(system: System) -> None:
    done = system.run("up")
    assert done.returncode == 3
    assert "store.db is held by process" in done.stderr
    assert "--state" in done.stderr
    assert system.ready()


def test_unknown_names(system: System) -> None:
    done = system.run("deploy", "wbe")
    assert done.returncode == 9
    assert "there is no service 'wbe'" in done.stderr
    assert "web" in done.stderr
    done = system.run("deploy", "web", "--release", "x", "--from", "nowhere")
    assert done.returncode == 10
    assert "nowhere" in done.stderr
    done = system.run("rollback", "web")
    assert done.returncode == 9
    assert system.status()["services"]["web"]["rollout"] is None


def test_a_deploy_during_a_deploy(system: System) -> None:
    assert system.deploy("first", "", "--detach").returncode == 0
    done = system.deploy("second")
    assert done.returncode == 8
    assert "rollout 1 of web" in done.stderr
    assert system.run("scale", "web", "3").returncode == 8
    assert system.run("rollback", "web").returncode == 0
    assert system.ended_rollout()["after"] == "first"


def test_a_release_never_changes(system: System) -> None:
    stable = system.status()["services"]["web"]["stable"]
    done = system.deploy(stable)
    assert done.returncode == 10
    assert "choose another version" in done.stderr.lower()


def test_no_control_plane(fresh: System) -> None:
    done = fresh.run("status")
    assert done.returncode == 13
    assert "gapless up" in done.stderr
    as_json = json.loads(fresh.run("status", "--json").stdout)
    assert as_json["code"] == 13


def test_ctrl_c_drains_and_leaves_nothing(system: System) -> None:
    assert system.interrupt() == 0
    assert system.processes() == []
    assert _sockets(system.state) == []
    assert sorted(p.name for p in system.directory.iterdir()) == ["gapless.yaml", "s", "up.log", "v1"]


def test_a_second_ctrl_c_does_not_wait(fresh: System) -> None:
    """A request that takes longer than anybody waits for is cut by the second Ctrl-C."""
    slow = (fresh.directory / "v1" / "web.py").read_text() + SLOW
    (fresh.directory / "v1" / "web.py").write_text(slow)
    fresh.file.write_text(fresh.file.read_text().replace("drain: 5s", "drain: 120s"))
    fresh.up()
    with socket.create_connection(("127.0.0.1", fresh.port)) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
        began = time.monotonic()
        fresh.interrupt(times=2)
        assert time.monotonic() - began < 30.0
    assert fresh.processes() == []
    assert _sockets(fresh.state) == []


SLOW = """
quick = app

async def app(scope, receive, send):
    if scope.get("path") == "/slow":
        import asyncio
        await asyncio.sleep(100)
    await quick(scope, receive, send)
"""


def test_down_without_a_control_plane(system: System) -> None:
    system.kill_control()
    assert system.processes() != []
    done = system.run("down")
    assert done.returncode == 0, done.stderr
    assert system.processes() == []
    assert _sockets(system.state) == []


def test_an_interrupted_start_leaves_nothing(fresh: System) -> None:
    up = fresh.start_up()
    until(lambda: (fresh.state / "control.sock").exists(), "socket", fresh.output)
    up.send_signal(signal.SIGINT)
    up.wait(60)
    assert fresh.processes() == []


def _sockets(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_socket()]

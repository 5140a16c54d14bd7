"""Several control planes on a real etcd: they take turns, etcd loses members, and requests notice nothing of it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gapless.control.leader import HOLD_S, LEASE_S
from tests.e2e.gateways_kit import Edge, load, obeying, with_door
from tests.e2e.kit import System, asked, lost, until
from tests.integration.etcd_kit import Etcd
from tests.ports import free_port

TAKEOVER_S = LEASE_S + 10.0
"""The lease, a look, the grace of the seat, and two busy cores."""


class Planes:
    """Control planes of one system, by pid."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        with self._system.output.open("ab") as output:
            argv = self._system.argv("up")
            process = subprocess.Popen(argv, stdout=output, stderr=output, cwd=self._system.directory)
        self.processes.append(process)
        return process

    def status(self) -> Any:
        """As `gapless status` has it, whoever answers; without starting an interpreter for each look."""
        state = self._system.state
        for path in (state / "control.sock", *state.glob("standby-*.sock")):
            if (told := asked(path)) and "control" in told:
                return told
        return {"control": {"leader": "", "standbys": []}, "ready": False}

    def until_led_by(self, process: subprocess.Popen[bytes]) -> float:
        """Seconds until it leads and everything is ready."""
        begun = time.monotonic()

        def leads() -> bool:
            status = self.status()
            return f"process {process.pid} " in status["control"]["leader"] and status["ready"]

        until(leads, f"leader {process.pid}", self._system.output)
        return time.monotonic() - begun

    def until_standing_by(self, process: subprocess.Popen[bytes]) -> None:
        until(
            lambda: any(f"process {process.pid} " in one for one in self.status()["control"]["standbys"]),
            f"standby {process.pid}",
            self._system.output,
        )

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with Etcd(3) as cluster:
        yield cluster


@pytest.fixture
def system(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    monkeypatch.setenv("GAPLESS_STORE", etcd.address())
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    yield System(directory)
    shutil.rmtree(directory)


@pytest.fixture
def planes(system: System) -> Iterator[Planes]:
    planes = Planes(system)
    yield planes
    done = system.run("down")
    planes.end()
    assert done.returncode == 0, done.stderr + system.output.read_text()
    assert system.processes() == []


@pytest.mark.timeout(300)
def test_control_planes_take_turns_and_etcd_loses_members(system: System, planes: Planes, etcd: Etcd) -> None:
    first = planes.start()
    planes.until_led_by(first)
    second = planes.start()
    planes.until_standing_by(second)
    instances = {i["pid"] for i in system.status()["services"]["web"]["instances"]}
    with system.load() as requests:
        first.kill()
        first.wait()
        assert planes.until_led_by(second) < TAKEOVER_S
        third = planes.start()
        planes.until_standing_by(third)
        second.send_signal(signal.SIGSTOP)
        assert planes.until_led_by(third) < TAKEOVER_S
        assert second.wait(TAKEOVER_S) == -signal.SIGKILL, "the stopped one may not wake up and go on"
        freeze_its_leader(etcd)
        planes.until_led_by(third)
        kill_and_restart_all(etcd)
        planes.until_led_by(third)
        assert system.run("scale", "web", "3").returncode == 0, system.output.read_text()
        until(lambda: system.status()["services"]["web"]["ready"] == 3, "third instance", system.output)
    assert instances < {i["pid"] for i in system.status()["services"]["web"]["instances"]}, "the first ones run on"
    assert lost(requests) == []


def freeze_its_leader(etcd: Etcd) -> None:
    """For longer than any lease."""
    leader = etcd.leader()
    leader.freeze()
    time.sleep(LEASE_S)
    leader.thaw()
    leader.wait_healthy()


def kill_and_restart_all(etcd: Etcd) -> None:
    """For long enough that nobody leads meanwhile."""
    for member in etcd.members:
        member.kill()
    time.sleep(HOLD_S + 1.0)
    for member in etcd.members:
        member.start()
    for member in etcd.members:
        member.wait_healthy()


@pytest.mark.promise
@pytest.mark.timeout(300)
def test_a_gateway_elsewhere_follows_whoever_leads(system: System, planes: Planes) -> None:
    """Each control plane serves gateways at another address, as on another machine."""
    token, doors = system.directory / "token", [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with_door(system, doors[0], token)
    edge = Edge(token, "edge", f"127.0.0.1:{free_port()}", *doors)
    first = planes.start()
    planes.until_led_by(first)
    edge.start()
    try:
        with load(edge, system.directory / "edge.jsonl") as requests:
            second = move_door(system, planes, *doors)
            first.kill()
            first.wait()
            planes.until_led_by(second)
            until(lambda: obeying(system) == {"gapless", "edge"}, "the gateway's return", edge.output)
            assert system.run("scale", "web", "3").returncode == 0
            until(lambda: system.status()["services"]["web"]["ready"] == 3, "third instance", system.output)
            until(lambda: obeying(system) == {"gapless", "edge"}, "the gateway's word", edge.output)
            third = move_door(system, planes, *reversed(doors))
            second.send_signal(signal.SIGTERM)
            assert second.wait(TAKEOVER_S) == 0
            planes.until_led_by(third)
            until(lambda: obeying(system) == {"gapless", "edge"}, "the gateway's second return", edge.output)
        assert lost(requests) == []
    finally:
        assert edge.end() == 0, edge.output.read_text()


def move_door(system: System, planes: Planes, old: str, new: str) -> subprocess.Popen[bytes]:
    """A control plane that stands by, and is to serve gateways at the new address."""
    system.file.write_text(system.file.read_text().replace(old, new))
    process = planes.start()
    planes.until_standing_by(process)
    return process


def test_ctrl_c_hands_over_another_place_is_refused_and_down_ends_all(
    system: System, planes: Planes, tmp_path: Path
) -> None:
    first = planes.start()
    planes.until_led_by(first)
    second = planes.start()
    planes.until_standing_by(second)
    elsewhere = subprocess.run(
        [*system.argv("up")[:-1], str(tmp_path / "s")], capture_output=True, text=True, timeout=60
    )
    assert elsewhere.returncode == 2
    assert "tiny lives at" in elsewhere.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GAPLESS_STORE")
        embedded = system.run("up")
    assert (embedded.returncode, f"held by process {first.pid}" in embedded.stderr) == (3, True), embedded.stderr
    instances = {i["pid"] for i in system.status()["services"]["web"]["instances"]}
    first.send_signal(signal.SIGTERM)
    assert first.wait(TAKEOVER_S) == 0
    planes.until_led_by(second)
    assert instances == {i["pid"] for i in system.status()["services"]["web"]["instances"]}, "handed over as they are"
    third = planes.start()
    planes.until_standing_by(third)
    assert system.run("down").returncode == 0
    assert (second.wait(60), third.wait(60)) == (0, 0)
    assert system.processes() == []

"""kill -9 for the control plane, at any point of a rollout: the rollout goes on, and nobody notices."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kit import System, lost, until

pytestmark = pytest.mark.promise

SERIES = 4
KILLS = 5
SEED = 20261121


@pytest.fixture
def system() -> Iterator[System]:
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory)
    system.up()
    yield system
    system.down()
    shutil.rmtree(directory)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("series", range(SERIES))
def test_a_rollout_survives_the_control_planes_death_at_any_point(system: System, series: int) -> None:
    """Twenty rollouts, good and bad, each with a kill at a random moment from the deploy to shortly after its end."""
    dice = random.Random(SEED + series)
    stable = system.status()["services"]["web"]["stable"]
    bad: set[str] = set()
    with system.load() as requests:
        for number in range(series * KILLS, (series + 1) * KILLS):
            fault = "errors" if number % 3 == 2 else ""
            name = f"k{number}"
            deployed = system.deploy(name, fault, "--detach")
            assert deployed.returncode == 0, deployed.stderr
            time.sleep(dice.uniform(0.0, 4.0))
            system.kill_control()
            system.up()
            ended = system.ended_rollout()
            expected = "rolled back" if fault else "promoted"
            assert (ended["after"], ended["state"]) == (name, expected), ended
            stable = stable if fault else name
            bad |= {name} if fault else set()
            _check_settled(system, stable)
    assert [r for r in requests if r["cause"] and r["release"] not in bad] == []


def _check_settled(system: System, stable: str) -> None:
    """Exactly the wanted instances run, neither orphaned nor doubled, and all the users have the stable release."""
    service = system.status()["services"]["web"]
    assert service["split"] == {stable: 1.0}
    live = [i for i in service["instances"] if i["phase"] != "stopped"]
    assert [i["release"] for i in live] == [stable, stable]
    leaders = {i["pid"] for i in live}
    marked = {pid for pid in system.processes() if _leads(pid)}
    assert marked == leaders


def _leads(pid: int) -> bool:
    """Whether it is an instance's first process; one that has just ended is not."""
    try:
        return os.getsid(pid) == pid and b"GAPLESS_INSTANCE=" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _ready(system: System) -> set[str]:
    return {i["id"] for i in system.status()["services"]["web"]["instances"] if i["phase"] == "ready"}


def test_everything_is_killed_and_comes_back(system: System) -> None:
    """A power cut, as far as processes go: what was acknowledged is still true afterwards."""
    with system.load():
        assert system.deploy("kept").returncode == 0
    for pid in system.processes():
        os.kill(pid, signal.SIGKILL)
    system.up()
    assert system.status()["services"]["web"]["split"] == {"kept": 1.0}


def test_a_killed_instance_is_replaced_while_no_control_plane_lives(system: System) -> None:
    """The request path does without: the gateway avoids what is dead, and the next control plane replaces it."""
    victim = next(i for i in system.status()["services"]["web"]["instances"] if i["phase"] == "ready")
    with system.load() as requests:
        system.kill_control()
        time.sleep(0.5)
        system.kill_instance(victim["pid"])
        time.sleep(2.0)
        system.up()
        until(lambda: len(_ready(system) - {victim["id"]}) == 2, "replacement", system.output)
        assert victim["id"] not in _ready(system)
    assert lost(requests) == []


def test_a_watcher_sees_the_end_across_a_restart(system: System) -> None:
    """`gapless deploy` waits on while the control plane is away."""
    import subprocess

    with system.load():
        argv = system.argv("deploy", "web", "--release", "w", "--from", str(system.source("w")), "--json")
        watcher = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=system.directory)
        until(lambda: system.rollout().get("after") == "w", "rollout", system.output)
        system.kill_control()
        system.up()
        output, _ = watcher.communicate(timeout=60)
    assert json.loads(output)["state"] == "promoted"
    assert watcher.returncode == 0

"""Deploys up and down, while instances are killed and stopped, gateways and the control plane are restarted or killed,
and rollouts are aborted, in an order by dice: no request is lost that a healthy release could have answered, and no
user is moved to and fro. `make soak` is 105 deploys and more than 200,000 requests."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import System, until
from tests.e2e.soak_kit import Told, loads

DEPLOYS = int(os.environ.get("SOAK_DEPLOYS", "5"))
RATE = float(os.environ.get("SOAK_RATE", "100"))
SEED = int(os.environ.get("SOAK_SEED", "20261130"))

pytestmark = [pytest.mark.promise, pytest.mark.timeout(300 + 120 * DEPLOYS)]


@pytest.fixture
def system() -> Iterator[System]:
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory)
    system.up()
    yield system
    system.down()
    shutil.rmtree(directory)


class Troubles:
    """Each begins something that must not cost a request, and waits until it is over."""

    def __init__(self, system: System, told: Told, dice: random.Random) -> None:
        self._system, self._told, self._dice = system, told, dice
        self.done: list[str] = []

    def any(self) -> None:
        trouble: Callable[[], None] = self._dice.choice(
            [self.kill_instance, self.restart_gateway, self.kill_control, self.freeze_instance]
        )
        self.done.append(f"{time.time():.2f} {trouble.__name__}")
        trouble()

    def _instances(self) -> list[dict[str, Any]]:
        """Ready ones whose release has another ready one beside: what stands alone has no healthy substitute."""
        found = [i for i in self._system.status()["services"]["web"]["instances"] if i["phase"] == "ready"]
        return [i for i in found if sum(i["release"] == other["release"] for other in found) > 1]

    def kill_instance(self) -> None:
        if chosen := self._instances():
            self._told.kills.append(time.time())
            self._system.kill_instance(self._dice.choice(chosen)["pid"])
            self._told.kills.append(time.time())

    def restart_gateway(self) -> None:
        done = self._system.run("gateway", "restart", "--why", "soak")
        assert done.returncode == 0, done.stderr

    def kill_control(self) -> None:
        self._system.kill_control()
        self._system.up()

    def freeze_instance(self) -> None:
        """It goes unready and comes back: an endpoint that flaps. What it holds meanwhile waits."""
        if chosen := self._instances():
            leader = self._dice.choice(chosen)["pid"]
            pids = [pid for pid in self._system.processes() if _session(pid) == leader]
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in pids:
                    os.kill(pid, number)
                time.sleep(0.5)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def test_nothing_is_lost_whatever_happens(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(SEED)
    moves: dict[str, int] = {}
    stable = system.status()["services"]["web"]["stable"]
    with loads(system, RATE) as told:
        troubles = Troubles(system, told, dice)
        for number in range(DEPLOYS):
            name, fault, aborted = f"s{number}", "errors" if dice.random() < 0.2 else "", dice.random() < 0.25
            deployed = system.deploy(name, fault, "--detach")
            assert deployed.returncode == 0, deployed.stderr
            told.bad |= {name} if fault else set()
            time.sleep(dice.uniform(0.0, 3.0))
            troubles.any()
            if aborted and dice.random() < 0.5:
                time.sleep(dice.uniform(0.0, 3.0))
            if aborted:
                system.run("rollout", "web", "abort", "--why", "soak")  # refused when it has ended by now
            ended = system.ended_rollout()
            assert ended["after"] == name
            back = ended["state"] == "rolled back"
            moves[stable] = moves.get(stable, 1) + back
            stable = stable if back else name
            assert back or not fault, ended
            assert back is bool(fault) or aborted, ended
            until(lambda: len(_ready(system)) == 2, "both instances", system.output)
    with capsys.disabled():
        sys.stdout.write(f"{told.total} requests, {told.held()} held by killed instances; {troubles.done}" + "\n")
    assert told.total > 20 * DEPLOYS
    assert told.lost() == [], troubles.done
    assert told.held() <= 10 * len(told.kills)
    assert told.restless(moves) == []


def _ready(system: System) -> list[Any]:
    return [i for i in system.status()["services"]["web"]["instances"] if i["phase"] == "ready"]

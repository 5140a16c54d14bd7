"""Releases come and go under load: nothing is lost that a healthy release could have answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kit import System, lost, until

pytestmark = pytest.mark.promise


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory, start="10s")
    system.up()
    yield system
    system.down()
    shutil.rmtree(directory)


def test_a_good_release_is_promoted(system: System) -> None:
    with system.load() as requests:
        done = system.deploy("good")
    assert done.returncode == 0, done.stderr
    assert "30% of users" in done.stdout
    assert "promoted" in done.stdout
    assert lost(requests) == []
    assert {r["release"] for r in requests} >= {"good"}
    assert system.status()["services"]["web"]["split"] == {"good": 1.0}


def test_a_bad_release_is_rolled_back(system: System) -> None:
    before = system.status()["services"]["web"]["stable"]
    with system.load() as requests:
        done = system.deploy("bad", "errors")
    assert done.returncode == 15
    assert "bad was rolled back: " in done.stderr
    assert lost(requests, but_for="bad") == []
    assert [r for r in requests if r["release"] == "bad" and r["cause"] == "5xx"]
    status = system.status()["services"]["web"]
    assert status["stable"] == before
    assert status["rollout"]["users_met"] > 0
    changes = system.json("changes", "--limit", "1000")
    decision = next(c for c in changes if "back to" in c["what"])
    assert decision["numbers"]["canary_errors"] > 0


@pytest.mark.parametrize(
    ("fault", "reason", "log"),
    [
        ("import", "'web:app' could not be imported", "No module named 'no_such_package'"),
        ("unready", "the database is not migrated", "the database is not migrated"),
    ],
)
def test_a_release_that_cannot_start_is_refused(system: System, fault: str, reason: str, log: str) -> None:
    before = system.status()["services"]["web"]["stable"]
    with system.load() as requests:
        done = system.deploy(f"refused-{fault}", fault)
    assert done.returncode == 15
    assert "was refused" in done.stderr
    assert reason in done.stderr, done.stderr
    assert log in done.stderr
    assert lost(requests) == []
    assert {r["release"] for r in requests} == {before}


def test_a_rollout_is_paused_resumed_and_promoted_by_hand(system: System) -> None:
    with system.load() as requests:
        assert system.deploy("by-hand", "", "--detach").returncode == 0
        assert system.run("rollout", "web", "pause", "--why", "campaign").returncode == 0
        assert system.json("rollout", "web")["paused"]
        assert system.run("rollout", "web", "resume").returncode == 0
        assert system.ended_rollout()["state"] == "promoted"
        assert system.deploy("urgent", "", "--detach").returncode == 0
        assert system.run("rollout", "web", "pause").returncode == 0  # else it may have ended before the next word
        assert system.run("rollout", "web", "promote", "--why", "it is urgent").returncode == 0
        assert system.ended_rollout()["state"] == "promoted"
    assert lost(requests) == []


def test_a_rollout_is_aborted_by_hand(system: System) -> None:
    before = system.status()["services"]["web"]["stable"]
    with system.load() as requests:
        assert system.deploy("aborted", "", "--detach").returncode == 0
        assert system.run("rollout", "web", "abort", "--why", "second thoughts").returncode == 0
        ended = system.ended_rollout()
    assert ended["state"] == "rolled back"
    assert ended["reason"] == "second thoughts"
    assert lost(requests) == []
    assert system.status()["services"]["web"]["stable"] == before


def test_back_to_the_release_before(system: System) -> None:
    with system.load() as requests:
        assert system.deploy("forward").returncode == 0
        done = system.run("rollback", "web", "--why", "wrong totals")
    assert done.returncode == 0, done.stderr
    assert "promoted" in done.stdout
    assert lost(requests) == []


def test_scaling_and_reloading_lose_nothing(system: System) -> None:
    with system.load() as requests:
        assert system.run("scale", "web", "3").returncode == 0
        until(lambda: system.status()["services"]["web"]["ready"] == 3, "third instance", system.output)
        reloaded = system.json("reload", "web")
        assert len(reloaded["reloaded"]) == 3
        assert system.run("scale", "web", "1").returncode == 0
        until(lambda: system.status()["services"]["web"]["ready"] == 1, "one instance", system.output)
        assert system.run("scale", "web", "2").returncode == 0
        until(lambda: system.status()["services"]["web"]["ready"] == 2, "second instance", system.output)
    assert lost(requests) == []


def test_envoys_death_is_noticed_and_mended(system: System) -> None:
    import os
    import signal

    before = system.status()["gateway"]
    os.kill(before["pid"], signal.SIGKILL)

    def mended() -> bool:
        status = system.status()
        return bool(status["gateway"]["restarts"] == before["restarts"] + 1 and status["ready"])

    until(mended, "new Envoy", system.output)
    with system.load() as requests:
        time.sleep(1.0)
    assert requests
    assert lost(requests) == []

"""Blue-green, gates by hand, trains, and the bake, behind a real Envoy and under load: nothing is lost."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gapless.core.model import bucket_of
from tests.e2e.kit import System, lost, until

WEB = """\
rollout:
      strategy: blue-green
      steps: [{share: 100%, approve: true}]
      hold: 500ms
      samples: 10
      patience: 60s
      keep: 5m
      bake: 5m
"""
ROLLOUT = "rollout: {steps: [30%, 100%], hold: 500ms, samples: 10, patience: 60s}"
LATER = '''\
"""Fails as soon as there is a file of a certain name."""
import os

async def app(scope, receive, send):
    bad = os.path.exists({flag!r})
    await send({{"type": "http.response.start", "status": 500 if bad else 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"later"}})
'''
BEHIND = """
  behind:
    app: web:app
    source: {source}
    instances: 1
    routes: [/behind]
    start: 20s
    drain: 5s
    {rollout}
"""

pytestmark = pytest.mark.timeout(400)
"""Each runs a dozen verbs, one process each, and deploys more than once."""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory)
    written = system.file.read_text()
    behind = BEHIND.format(source=directory / "v1", rollout=ROLLOUT)
    system.file.write_text(written[: written.index("rollout:")] + WEB + behind)
    system.up()
    yield system
    system.down()
    shutil.rmtree(directory)


def asked(system: System, release: str = "", user: str = "") -> str:
    """Who answers a request."""
    told = {"x-gapless-release": release, "x-user-id": user}
    request = urllib.request.Request(system.url, headers={name: value for name, value in told.items() if value})
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read().decode())


def test_blue_green_is_looked_at_approved_switched_and_returned_at_once(system: System) -> None:
    before = system.status()["services"]["web"]["stable"]
    with system.load() as requests:
        assert system.deploy("green", "", "--detach").returncode == 0
        until(lambda: "approval of 100 %" in system.rollout()["waiting"], "wait for an approval", system.output)
        assert asked(system, "green") == "green"
        assert asked(system) == "v1"
        assert system.status()["services"]["web"]["split"] == {before: 1.0}
        assert system.run("rollout", "web", "approve", "--why", "looks good").returncode == 0
        assert system.ended_rollout()["state"] == "promoted"
        assert system.json("rollout", "web")["approvals"][0]["why"] == "looks good"
        assert len(system.status()["services"]["web"]["instances"]) >= 4
        divided_by_hand(system, before)
        done = system.run("rollback", "web", "--why", "not so good")
    assert done.returncode == 0, done.stderr
    assert asked(system) == "v1"
    assert lost(requests) == []
    assert {r["release"] for r in requests} == {before, "green"}


def divided_by_hand(system: System, before: str) -> None:
    """Some users come back to the pool that is kept, those that came last; they stay there while the control plane is
    killed, until the change is undone."""
    users = [f"u{n}" for n in range(50)]
    wanted = {user: "green" if bucket_of(user, "web-1") < 7_000 else "v1" for user in users}

    def placed() -> dict[str, str]:
        return {user: asked(system, user=user) for user in users}

    done = system.run("split", "web", f"{before}=30", "green=60")
    assert (done.returncode, f"Write for instance {before}=30 green=70" in done.stderr) == (2, True), done.stderr
    done = system.run("split", "web", f"{before}=30", "green=70", "--why", "one more look")
    assert done.returncode == 0, done.stderr
    until(lambda: placed() == wanted, "split by hand", system.output)
    system.kill_control()
    assert placed() == wanted
    system.up()
    assert placed() == wanted
    assert system.json("split", "web")["shares"] == {"green": 0.7, before: 0.3}
    change = next(each for each in system.json("changes") if each["what"].startswith("split web"))
    assert (change["why"], bool(change["who"])) == ("one more look", True)
    assert system.run("undo", str(change["number"])).returncode == 0
    until(lambda: set(placed().values()) == {"green"}, "return of the users", system.output)


def test_a_dry_run_tells_the_steps_and_changes_nothing(system: System) -> None:
    changes = system.json("changes")
    done = system.run("deploy", "web", "--release", "dry", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "waits" in done.stdout
    assert "100 % of the users to dry" in done.stdout
    assert "up to 4 instances at once" in done.stdout
    outline = system.json("deploy", "web", "--release", "dry", "--dry-run")
    assert outline["ends"] == {"web": "promoted"}
    assert system.json("changes") == changes


def test_a_promoted_release_that_begins_to_fail_goes_back_by_itself(system: System) -> None:
    before = system.status()["services"]["web"]["stable"]
    flag = system.directory / "begin-to-fail"
    source = system.source("later")
    (source / "web.py").write_text(LATER.format(flag=str(flag)))
    with system.load() as requests:
        assert system.run("deploy", "web=later", "--from", str(source), "--detach").returncode == 0
        until(lambda: "approval" in system.rollout()["waiting"], "wait for an approval", system.output)
        assert system.run("rollout", "web", "approve").returncode == 0
        promoted = system.ended_rollout()
        assert promoted["state"] == "promoted"
        flag.touch()
        until(lambda: system.rollout()["number"] > promoted["number"], "way back by itself", system.output)
        undone = system.ended_rollout()
    assert (undone["undoes"], undone["automatic"], undone["state"]) == (promoted["number"], True, "promoted")
    assert "does harm after its promotion" in undone["reason"]
    assert system.status()["services"]["web"]["stable"] == before
    assert lost(requests, but_for="later") == []
    changes = system.json("changes")
    assert next(c for c in changes if "it does harm and goes back" in c["what"])["numbers"]["canary_errors"] > 0


def test_a_train_goes_back_as_one_though_the_control_plane_is_killed(system: System) -> None:
    before = {name: system.status()["services"][name]["stable"] for name in ("web", "behind")}
    source = system.source("train", "errors")
    with system.load() as requests:
        done = system.run(
            "deploy",
            "web=blue",
            f"behind={source.name}",
            "--train",
            "both",
            "--detach",
            "--from",
            f"web={system.source('blue')}",
            "--from",
            f"behind={source}",
        )
        assert done.returncode == 0, done.stderr
        system.kill_control()
        system.up()
        until(lambda: all(each["waiting"] for each in system.told("/v1/rollouts?name=both")), "wait", system.output)
        assert system.run("rollout", "both", "approve").returncode == 0
        with behind_is_asked(system):
            until(lambda: ended(system, "both"), "end of the train", system.output)
    assert [each["state"] for each in system.json("rollout", "both")] == ["rolled back", "rolled back"]
    assert "train both: behind goes back" in system.json("rollout", "web")["reason"]
    assert lost(requests) == []
    assert {name: system.status()["services"][name]["stable"] for name in before} == before


def ended(system: System, name: str) -> bool:
    return all(each["state"] in ("promoted", "rolled back") for each in system.told(f"/v1/rollouts?name={name}"))


@contextmanager
def behind_is_asked(system: System) -> Iterator[None]:
    """Requests for `/behind`, some of which its bad release fails."""
    argv = [sys.executable, "-m", "gapless", "load", f"{system.url}behind", "--rate", "40", "--for", "900s"]
    process = subprocess.Popen([*argv, "--users", "200"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)

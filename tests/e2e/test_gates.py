"""Releases that are refused before any user has met them: by a gate, and by the mirror."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import System, lost, until

CHECK = """\
import os, sys, time, urllib.request
release = os.environ["GAPLESS_RELEASE"]
with urllib.request.urlopen(os.environ["GAPLESS_URL"]) as answer:
    print(release, "says", answer.read().decode())
with open("runs", "a") as runs:
    print(release, file=runs)
while release == "slow" and not os.path.exists("go"):
    time.sleep(0.05)
sys.exit("the column price is missing" if release == "bad" else 0)
"""
GATED = """{strategy: canary, steps: [30%, 100%], hold: 500ms, samples: 10, patience: 60s,
      mirror: {share: 100%, for: 1s, samples: 30, patience: 60s},
      gates: [{name: own, command: [python, check.py], limit: 60s}]}"""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="g-") as directory:
        found = System(Path(directory))
        text = found.file.read_text()
        head, _, _ = text.partition("    rollout:")
        found.file.write_text(f"{head}    rollout: {GATED}\n")
        (Path(directory) / "check.py").write_text(CHECK)
        found.up()
        try:
            yield found
        finally:
            found.down()


def same(system: System, name: str) -> Path:
    """A release that answers like the first one."""
    path = system.source(name)
    (path / "web.py").write_text((system.directory / "v1" / "web.py").read_text() + f"\nRELEASE = {name!r}\n")
    return path


def deploy(system: System, name: str, source: Path, *more: str) -> Any:
    return system.run("deploy", "web", "--release", name, "--from", str(source), *more)


def gates(system: System) -> dict[str, Any]:
    return {gate["name"]: gate for gate in system.json("rollout", "web")["gates"]}


def test_no_user_meets_a_release_that_a_gate_or_the_mirror_refuses(system: System) -> None:
    with system.load() as requests:
        done = deploy(system, "bad", same(system, "bad"))
        assert done.returncode == 15
        assert "gate own refuses" in done.stderr
        assert "the column price is missing" in done.stderr
        assert gates(system)["mirror"]["state"] == "waiting"

        done = deploy(system, "other", system.source("other"))  # it answers another name
        assert done.returncode == 15, done.stdout + done.stderr
        assert "gate mirror refuses" in done.stderr
        found = gates(system)["mirror"]
        assert found["numbers"]["different"] >= 3
        assert found["examples"][0] == "GET /: body: other bytes"

        done = deploy(system, "good", same(system, "good"))
        assert done.returncode == 0, done.stdout + done.stderr + system.output.read_text()
        shown = system.run("rollout", "web").stdout
        assert "✓ own: passed" in shown
        assert "✓ mirror: passed" in shown
    assert lost(requests) == []
    assert {r["release"] for r in requests} & {"bad", "other"} == set()


def test_gates_are_run_by_hand_too(system: System) -> None:
    done = system.run("gate", "run", "web", "own", "--release", "bad", "--url", system.url, "--json")
    assert done.returncode == 20, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["name"], found["passed"]) == ("own", False)
    assert "the column price is missing" in found["output"]


def test_the_preflight_tells_what_a_rollout_will_need(system: System) -> None:
    found = system.json("preflight", "web")
    assert {"record", "memory", "descriptors", "processors", "mirror"} <= {line["what"] for line in found["lines"]}
    coming = system.json("preflight", "web", "--release", "2.0")
    assert {line["what"] for line in coming["lines"]} == {line["what"] for line in found["lines"]}
    written = system.file.read_text()
    system.file.write_text(written.replace("instances: 2", "instances: 3"))
    coming = {line["what"]: line for line in system.json("preflight", "web", "--release", "2.0")["lines"]}
    system.file.write_text(written)
    assert "its instances of web are not in force yet" in coming["definition"]["told"]
    assert coming["processors"]["used"] > next(each["used"] for each in found["lines"] if each["what"] == "processors")
    shown = system.run("preflight", "web").stdout
    assert "RISK" in shown
    assert "100 % of GET, HEAD" in shown


def test_a_gate_whose_control_plane_is_killed_is_ended_and_run_again(system: System) -> None:

    def runs() -> int:
        return (system.directory / "runs").read_text().split().count("slow")

    with system.load() as requests:
        deploy(system, "slow", same(system, "slow"), "--detach")
        until(lambda: runs() == 1, "run of the gate", system.output)
        system.kill_control()
        system.up()
        until(lambda: runs() == 2, "second run of the gate", system.output)
        assert len([pid for pid in system.processes() if _runs_check(pid)]) == 1
        (system.directory / "go").touch()
        assert system.ended_rollout()["state"] == "promoted"
    assert lost(requests) == []
    assert runs() == 2


def _runs_check(pid: int) -> bool:
    try:
        return b"check.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False

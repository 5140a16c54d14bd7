"""The change log, undo by number, and a drawn rollout, by the command line of a real system."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import System, until


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="g-"))
    made = System(directory)
    made.up()
    try:
        yield made
    finally:
        made.down()
        shutil.rmtree(directory, ignore_errors=True)


def change(system: System, what: str) -> Any:
    return system.json("changes", "--what", what, "--limit", "1")[0]


def test_a_bad_release_is_drawn_with_what_it_did(system: System) -> None:
    with system.load(rate=40):
        assert system.deploy("bad", "errors").returncode == 15
    drawn = system.run("rollout", "web", "show", "1").stdout
    assert "rolled back" in drawn
    assert "error rate" in drawn
    assert "evidence against it" in drawn
    assert "back to" in drawn
    found = system.json("rollout", "web", "show")
    assert found["looks"][-1]["decision"] == "rollback"
    assert sum(look["canary_errors"] for look in found["looks"]) > 0
    narrow = subprocess.run(
        system.argv("rollout", "web"), capture_output=True, text=True, cwd=system.directory, env={"COLUMNS": "40"}
    )
    assert narrow.returncode == 0, narrow.stderr
    assert max(map(len, narrow.stdout.splitlines())) <= 40


def test_changes_tell_what_changed_and_are_undone_by_number(system: System) -> None:
    assert system.run("scale", "web", "1", "--why", "quiet hours", "--ticket", "OPS-1").returncode == 0
    scaled = change(system, "scale web")
    assert (scaled["why"], scaled["ticket"], scaled["undoable"]) == ("quiet hours", "OPS-1", True)
    shown = system.run("changes", str(scaled["number"])).stdout
    assert "services/web instances: 2 → 1" in shown
    assert system.run("undo", str(scaled["number"]), "--why", "they were not").returncode == 0
    until(lambda: system.status()["services"]["web"]["ready"] == 2, "two instances", system.output)
    assert system.json("changes", str(scaled["number"]))["undone_by"] > scaled["number"]
    assert "already undone" in system.run("undo", str(scaled["number"])).stdout


def test_a_release_goes_back_by_the_number_of_its_deploy(system: System) -> None:
    before = system.status()["services"]["web"]["stable"]
    with system.load(rate=40):
        assert system.deploy("good").returncode == 0
        number = change(system, "deploy web good")["number"]
        assert system.run("undo", str(number), "--why", "carts are empty").returncode == 0
    assert system.status()["services"]["web"]["stable"] == before
    refused = system.run("undo", str(change(system, "deploy web bad")["number"]))
    assert refused.returncode == 16
    assert "was rolled back" in refused.stderr


def test_the_change_log_is_followed_across_new_entries(system: System) -> None:
    argv = system.argv("changes", "--follow", "--json", "--service", "web")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=system.directory)
    try:
        assert process.stdout
        first = json.loads(process.stdout.readline())
        assert first["service"] == "web"
        assert system.run("scale", "web", "3", "--why", "followed").returncode == 0
        for line in process.stdout:
            if json.loads(line)["why"] == "followed":
                break
        else:
            raise AssertionError("the change was not told")
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()

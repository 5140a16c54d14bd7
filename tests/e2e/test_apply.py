"""gapless.yaml changes under load: routes move between services, and nothing is lost; wrong files change nothing."""

from __future__ import annotations

import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kit import System, lost, until

pytestmark = pytest.mark.promise

OTHER = """\
  other:
    app: web:app
    source: {source}
    instances: 1
    routes: [{{exact: /}}]
    drain: 5s
"""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    directory = Path(tempfile.mkdtemp(prefix="e2e-"))
    system = System(directory, start="30s")
    system.source("other")
    system.up()
    yield system
    system.down()
    shutil.rmtree(directory)


def answering(system: System) -> str:
    with urllib.request.urlopen(system.url, timeout=10) as response:
        return str(response.read().decode())


def test_a_service_takes_over_requests_of_another_and_gives_them_back(system: System) -> None:
    before = system.file.read_text()
    with system.load() as requests:
        system.file.write_text(before + OTHER.format(source=system.directory / "other"))
        shown = system.run("apply", "--dry-run")
        assert "other enters" in shown.stdout, shown.stderr
        assert answering(system) == "v1"
        done = system.run("apply", "--why", "other answers now")
        assert done.returncode == 0, done.stderr
        until(lambda: answering(system) == "other", "answer of the new service", system.output)
        assert system.json("route", "explain", "/")["service"] == "other"
        system.file.write_text(before)
        assert system.run("apply").returncode == 0
        until(lambda: answering(system) == "v1", "answer of the old service", system.output)
        until(lambda: "other" not in running(system), "end of what has left", system.output)
    assert lost(requests) == []
    assert len({r["release"] for r in requests}) == 2
    told = [change["what"] for change in system.json("changes")]
    assert next(what for what in told if what.startswith("other ")).startswith("other leaves")


def running(system: System) -> set[str]:
    """Services that have an instance."""
    services = system.status()["services"]
    return {name for name, it in services.items() if any(i["phase"] != "stopped" for i in it["instances"])}


def test_a_wrong_file_is_refused_whole(system: System) -> None:
    before, status = system.file.read_text(), system.json("route")
    wrong = OTHER.format(source=system.directory / "other").replace("{exact: /}", '{regex: "/(?!x)"}, {path: /}')
    system.file.write_text(before.replace("routes: [/]", "routes: [/, /new]") + wrong)
    try:
        done = system.run("apply")
    finally:
        system.file.write_text(before)
    assert done.returncode == 2
    assert "services.other.routes[0].regex" in done.stderr
    assert "not an expression of RE2" in done.stderr
    assert system.json("route") == status


def test_an_explanation_needs_no_control_plane(system: System) -> None:
    told = system.json("route", "explain", "--user", "7", "/x")
    system.kill_control()
    alone = system.json("route", "explain", "--user", "7", "/x")
    assert "no control plane runs" in alone["source"]
    assert (alone["service"], alone["release"]) == (told["service"], told["release"])
    assert answering(system) == "v1"
    system.up()

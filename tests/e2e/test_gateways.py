"""Further gateways beside that of `gapless up`, under load: a deploy, a dead control plane, a dead `gateway run`, a
drain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gateways_kit import Edge, load, obeying, rows, with_door
from tests.e2e.kit import System, lost, until
from tests.ports import free_port

AWAY_S = 3.0
"""How long the control plane is dead."""


def local() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def system(short_dir: Path) -> Iterator[System]:
    found = System(short_dir, strategy="rolling")
    yield found
    found.down()


@pytest.fixture
def second(system: System, short_dir: Path) -> Iterator[Edge]:
    """One that serves, of a system that is up."""
    control, token = local(), short_dir / "token"
    with_door(system, control, token)
    system.up()
    found = Edge(token, "second", local(), control)
    found.start()
    yield found
    found.end()


@pytest.mark.promise
def test_two_gateways_under_load_lose_nothing(system: System, second: Edge, short_dir: Path) -> None:
    with load(system, short_dir / "1.jsonl") as first, load(second, short_dir / "2.jsonl") as other:
        done = system.deploy("v2")
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: obeying(system) == {"gapless", "second"}, "both gateways", system.output)
        system.kill_control()
        time.sleep(AWAY_S)
        system.up()
        until(lambda: obeying(system) == {"gapless", "second"}, "both gateways", system.output)
    for requests in (first, other):
        assert lost(requests) == []
        assert len({request["release"] for request in requests}) == 2
    assert second.end() == 0, second.output.read_text()
    assert second.output.read_text().splitlines()[-2:] == ["stopping", "stopped"]
    assert second.envoys == set()


@pytest.mark.promise
def test_a_killed_gateway_run_is_followed_without_a_loss(system: System, second: Edge, short_dir: Path) -> None:
    (envoy,) = second.envoys
    with load(second, short_dir / "1.jsonl") as requests:
        second.kill()
        assert system.deploy("v2").returncode == 0, system.output.read_text()
        assert second.envoys == {envoy}, "it serves on by itself"
        second.start()
        assert second.envoys == {envoy}, "adopted as it is"
        second.kill()
        second.start("--zone", "b")
        until(lambda: second.envoys - {envoy}, "an Envoy that follows", second.output)
        until(lambda: rows(system)["second"]["acknowledged"], "the follower", second.output)
    assert lost(requests) == []
    assert len({request["release"] for request in requests}) == 2

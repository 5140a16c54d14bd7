"""A system on one machine and gateways on two others, under load through both: deploys, restarts, and cut wires."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gateways_kit import Edge, load, obeying, rows, with_door
from tests.e2e.kit import System, lost, until
from tests.e2e.machines_kit import CONTROL, Machine, Machines, machines

PORT, XDS = 8080, 9901
WHO = """\
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["client"][0].encode()})
"""
"""Answers whom it takes for its client."""


@pytest.fixture
def around() -> Iterator[Machines]:
    with machines(2) as found:
        yield found


@pytest.fixture
def system(around: Machines, short_dir: Path) -> Iterator[System]:
    """One whose instances the machines around it reach."""
    middle = around.middle
    found = System(short_dir, strategy="rolling")
    found.inside = middle.inside
    (short_dir / "v1" / "web.py").write_text(WHO)
    trust = ", ".join(f'"{machine.address()}"' for machine in around.around)
    network = f'network: {{bind: "0.0.0.0", advertise: "{middle.address()}", trust: [{trust}]}}\nregistry:\n'
    with_door(found, f"{middle.address(CONTROL)}:{XDS}", short_dir / "token", network)
    found.up()
    yield found
    found.down()


@pytest.fixture
def edges(around: Machines, system: System) -> Iterator[list[Edge]]:
    found = [edge_on(machine, around.middle, system) for machine in around.around]
    try:
        for edge in found:
            edge.start()
        yield found
    finally:
        for edge in found:
            edge.end()


def edge_on(machine: Machine, middle: Machine, system: System) -> Edge:
    token, listen = system.directory / "token", f"{machine.address()}:{PORT}"
    return Edge(token, machine.name, listen, f"{middle.address(CONTROL)}:{XDS}", inside=machine.inside)


def asked(machine: Machine, url: str) -> str:
    """What is answered to a request from there."""
    get = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=20).read().decode())"
    argv = [*machine.inside, sys.executable, "-c", get, url]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def found_at(machine: Machine) -> set[str]:
    """Where the registry there says that instances are: to clients of Consul, and to Prometheus."""
    told = json.loads(asked(machine, "http://127.0.0.1:8500/v1/health/service/web?passing"))
    groups = json.loads(asked(machine, "http://127.0.0.1:8500/v1/prometheus/http_sd?service=web"))
    targets = [target.partition(":")[0] for group in groups for target in group["targets"]]
    assert len(targets) == len(told) == 2
    return {found for each in told for found in (each["Node"]["Address"], each["Service"]["Address"])} | set(targets)


@pytest.mark.promise
@pytest.mark.timeout(300)
def test_deploys_and_restarts_lose_nothing_on_any_machine(
    around: Machines, system: System, edges: list[Edge], short_dir: Path
) -> None:
    everybody, client = {"gapless", "edge2", "edge3"}, around.middle
    assert asked(client, edges[0].url) == client.address(), "the word of a gateway that is trusted"
    (restarted,) = edges[0].envoys
    with load(edges[0], short_dir / "2.jsonl") as one, load(edges[1], short_dir / "3.jsonl") as other:
        assert system.deploy("v2").returncode == 0, system.output.read_text()
        edges[0].kill()
        assert system.run("scale", "web", "3").returncode == 0
        edges[0].start("--zone", "b")
        until(lambda: edges[0].envoys - {restarted}, "another Envoy", edges[0].output)
        assert system.run("rollback", "web").returncode == 0, system.output.read_text()
        assert system.run("scale", "web", "2").returncode == 0
        until(lambda: obeying(system) == everybody, "all gateways", system.output)
    for requests in (one, other):
        assert lost(requests) == []
        assert len({request["release"] for request in requests}) == 2
    assert found_at(around.middle) == {around.middle.address()}


@pytest.mark.promise
@pytest.mark.timeout(300)
def test_a_gateway_that_is_cut_off_serves_on_and_catches_up(
    around: Machines, system: System, edges: list[Edge], short_dir: Path
) -> None:
    machine, edge = around.around[0], edges[0]
    until(lambda: obeying(system) == {"gapless", "edge2", "edge3"}, "all gateways", system.output)
    with load(edge, short_dir / "2.jsonl") as requests:
        around.cut(machine, "control")
        assert system.run("scale", "web", "3").returncode == 0
        until(lambda: system.status()["services"]["web"]["ready"] == 3, "third instance", system.output)
        until(lambda: "edge2" not in rows(system), "nobody waits for it", system.output)
        around.mend(machine, "control")
        until(lambda: obeying(system) == {"gapless", "edge2", "edge3"}, "its return", system.output)
    assert lost(requests) == []

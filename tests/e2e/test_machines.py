"""A system on one machine and gateways on two others, under load through both: deploys, restarts, and cut wires."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
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


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="g-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def around() -> Iterator[Machines]:
    with machines(2) as found:
        yield found


@pytest.fixture(scope="module")
def system(around: Machines, directory: Path) -> Iterator[System]:
    """One whose instances the machines around it reach."""
    middle = around.middle
    found = System(directory, strategy="rolling")
    found.inside = middle.inside
    (directory / "v1" / "web.py").write_text(WHO)
    trust = ", ".join(f'"{machine.address()}"' for machine in around.around)
    network = f'network: {{bind: "0.0.0.0", advertise: "{middle.address()}", trust: [{trust}]}}\nregistry:\n'
    with_door(found, f"{middle.address(CONTROL)}:{XDS}", directory / "token", network)
    found.up()
    yield found
    found.down()


@pytest.fixture(scope="module")
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


def found_at(machine: Machine) -> list[set[str]]:
    """Where the registry there says that each instance is: to clients of Consul, and to Prometheus."""
    told = json.loads(asked(machine, "http://127.0.0.1:8500/v1/health/service/web"))
    groups = json.loads(asked(machine, "http://127.0.0.1:8500/v1/prometheus/http_sd?service=web"))
    hosts = {group["labels"]["__meta_gapless_service_id"]: group["targets"][0].partition(":")[0] for group in groups}
    return [
        {each["Node"]["Address"], each["Service"]["Address"], hosts.get(each["Service"]["ID"], "")} for each in told
    ]


@pytest.mark.promise
@pytest.mark.timeout(300)
def test_deploys_and_restarts_lose_nothing_on_any_machine(
    around: Machines, system: System, edges: list[Edge], directory: Path
) -> None:
    everybody, middle = {"gapless", "edge2", "edge3"}, around.middle
    assert asked(middle, edges[0].url) == middle.address(), "the word of a gateway that is trusted"
    (restarted,) = edges[0].envoys
    with load(edges[0], directory / "2.jsonl") as one, load(edges[1], directory / "3.jsonl") as other:
        assert system.deploy("v2").returncode == 0, system.output.read_text()
        edges[0].kill()
        assert system.run("scale", "web", "3").returncode == 0
        edges[0].start("--zone", "b")
        until(lambda: edges[0].envoys - {restarted}, "another Envoy", edges[0].output)
        assert system.run("rollback", "web").returncode == 0, system.output.read_text()
        assert system.run("scale", "web", "2").returncode == 0
        until(lambda: len(found_at(middle)) == 2, "the end of the third instance", system.output)
        until(lambda: obeying(system) == everybody, "all gateways", system.output)
    for requests in (one, other):
        assert lost(requests) == []
        assert len({request["release"] for request in requests}) == 2
    assert {host for hosts in found_at(middle) for host in hosts} == {middle.address()}


@pytest.mark.promise
@pytest.mark.timeout(300)
def test_a_gateway_that_is_cut_off_serves_on_and_catches_up(
    around: Machines, system: System, edges: list[Edge], directory: Path
) -> None:
    machine, edge = around.around[0], edges[0]
    until(lambda: obeying(system) == {"gapless", "edge2", "edge3"}, "all gateways", system.output)
    with load(edge, directory / "cut.jsonl") as requests:
        around.cut(machine, "control")
        assert system.run("scale", "web", "3").returncode == 0
        until(lambda: system.status()["services"]["web"]["ready"] == 3, "third instance", system.output)
        until(lambda: "edge2" not in rows(system), "nobody waits for it", system.output)
        around.mend(machine, "control")
        until(lambda: obeying(system) == {"gapless", "edge2", "edge3"}, "its return", system.output)
    assert lost(requests) == []

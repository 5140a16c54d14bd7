"""A system with a registry: what `gapless up` runs is found by Consul's API and by DNS, in step with its phases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.e2e.kit import System, lost
from tests.e2e.registry_kit import LIMIT_S, Load, get_json, until
from tests.e2e.test_registry_haproxy import haproxy
from tests.ports import free_port


class Found:
    """Who is found where, by port."""

    def __init__(self, http: int, dns: int) -> None:
        self.http, self.dns = http, dns

    def by_http(self) -> set[int]:
        return {one["Service"]["Port"] for one in get_json(self.http, "/v1/health/service/web?passing")}

    def by_dns(self) -> set[int]:
        asked = dns.message.make_query("_web._tcp.service.consul", "SRV")
        answer = dns.query.udp(asked, "127.0.0.1", port=self.dns, timeout=LIMIT_S)
        return {rdata.port for rrset in answer.answer for rdata in rrset}


@pytest.fixture
def system(short_dir: Path) -> Iterator[System]:
    system = System(short_dir)
    yield system
    system.down()


@pytest.fixture
def found(system: System) -> Found:
    found = Found(free_port(), free_port())
    registry = f'registry: {{http: "127.0.0.1:{found.http}", dns: "127.0.0.1:{found.dns}", zone: rack-7}}\n'
    system.file.write_text(system.file.read_text() + registry)
    return found


def ready(system: System) -> set[int]:
    """The ports of the instances that are ready."""
    instances = system.status()["services"]["web"]["instances"]
    return {int(one["address"].rpartition(":")[2]) for one in instances if one["phase"] == "ready"}


def settles(system: System, found: Found, count: int) -> None:
    """Both ways lead to so many, who are those that are ready."""
    until(lambda: len(found.by_http()) == count and found.by_http() == found.by_dns(), system.output.read_text)
    until(lambda: ready(system) == found.by_http(), system.output.read_text)


def test_what_up_runs_is_found_for_as_long_as_it_may_be_asked(system: System, found: Found, short_dir: Path) -> None:
    system.up()
    assert f"registry   http://127.0.0.1:{found.http}" in system.output.read_text()
    assert f"registry http://127.0.0.1:{found.http}, DNS 127.0.0.1:{found.dns} (.consul)" in system.run("status").stdout
    settles(system, found, 2)
    (one, _) = get_json(found.http, "/v1/health/service/web")
    release = system.status()["services"]["web"]["stable"]
    assert (one["Service"]["Meta"]["version"], one["Service"]["Meta"]["zone"]) == (release, "rack-7")
    assert one["Service"]["Tags"] == [release]

    with haproxy(short_dir, found.dns) as port, system.load() as requests:
        with Load(port) as early:
            until(lambda: early.lately() == {"v1"}, lambda: early.failures)
        with Load(port) as others:
            system.run("scale", "web", "3")
            settles(system, found, 3)
            system.run("scale", "web", "1")
            settles(system, found, 1)
    assert lost(requests) == []
    assert others.failures == [], "nor those that came past the gateway"

    system.kill_control()
    system.up()
    settles(system, found, 1)


def test_a_port_that_is_taken_is_told_before_anything_is_started(system: System, found: Found) -> None:
    system.file.write_text(system.file.read_text().replace(f":{found.http}", f":{found.dns}"))
    process = system.start_up()
    assert process.wait(LIMIT_S) in (2, 6), system.output.read_text()
    assert f"127.0.0.1:{found.dns}" in system.output.read_text()
    assert system.processes() == []

"""HAProxy, as Debian has it, follows a service by DNS SRV."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.registry_kit import LIMIT_S, Load, Registry, Web, until
from tests.ports import free_port

BINARY = shutil.which("haproxy") or "/usr/sbin/haproxy"
PACKAGE = "haproxy is not installed: apt-get install -y --no-install-recommends haproxy"


CONFIG = """\
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s

{resolvers}
frontend public
  bind 127.0.0.1:{port}
  default_backend orders

{backend}
"""


def documented(dns: int) -> tuple[str, str]:
    """The two sections of the page on the registry, with our port and service."""
    page = (Path(__file__).parents[2] / "docs/registry.md").read_text()
    example = page.partition("```haproxy\n")[2].partition("```")[0].replace(":8600", f":{dns}")
    resolvers, _, backend = example.partition("backend orders")
    return resolvers, "backend orders" + backend.replace("_orders._tcp", "_web._tcp")


@contextmanager
def haproxy(directory: Path, dns: int) -> Iterator[int]:
    """Its port."""
    assert Path(BINARY).exists(), PACKAGE
    port = free_port()
    resolvers, backend = documented(dns)
    file, log = directory / "haproxy.cfg", directory / "haproxy.log"
    file.write_text(CONFIG.format(resolvers=resolvers, backend=backend, port=port))
    with log.open("wb") as output:
        process = subprocess.Popen([BINARY, "-f", str(file)], stdout=output, stderr=output)
    try:
        yield port
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def test_it_follows_instances_that_come_turn_critical_and_go_without_a_failed_request(tmp_path: Path) -> None:
    with Registry(tmp_path) as registry, Web("one") as one, Web("two") as two, Web("three") as three:
        registry.register("one", one.port)
        registry.register("two", two.port)
        with haproxy(tmp_path, registry.dns) as port:
            with Load(port) as early:
                until(lambda: early.lately() == {"one", "two"}, lambda: (early.failures, early.answers[-9:]))
            with Load(port) as load:

                def turns(*names: str) -> None:
                    until(lambda: load.lately() == set(names), lambda: (names, load.lately(), load.failures))

                registry.register("three", three.port)
                turns("one", "two", "three")
                registry.fail("one")
                turns("two", "three")
                registry.succeed("one")
                turns("one", "two", "three")
                registry.deregister("two")
                turns("one", "three")
                two.__exit__()  # it has said goodbye, and is asked no more
                registry.put("agent/service/maintenance/three?enable=true&reason=repair")
                turns("one")
            assert load.failures == []

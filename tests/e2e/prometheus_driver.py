"""Prometheus between a registry and two services, in namespaces of its own: it asks the resolver of /etc/resolv.conf at
port 53, and nothing else. Prints what it had found, each time once it had found it, as a line of JSON.

    unshare -mn python -m tests.e2e.prometheus_driver DIRECTORY
"""

from __future__ import annotations

import fcntl
import json
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.e2e.registry_kit import LIMIT_S, Registry, Web, get_json, until

HTTP, DNS, OWN = 8500, 53, 9090
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
PAGE = Path(__file__).parents[2] / "docs/registry.md"


def loopback_up() -> None:
    """What a new network namespace has is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = struct.pack("16sH", b"lo", 0).ljust(40, b"\0")
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH", b"lo", flags | IFF_UP).ljust(40, b"\0"))


def resolve_by_us(directory: Path) -> None:
    resolver = directory / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)


def configuration() -> str:
    """Both jobs of the page on the registry, impatient."""
    by_http, by_dns = re.findall(
        r"^```yaml\nscrape_configs:\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    jobs = (by_http + by_dns.replace("_orders.", "_web.")).replace("refresh_interval: 5s", "refresh_interval: 1s")
    return f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}"


def targets() -> dict[str, list[dict[str, Any]]]:
    """Those that are being scraped, by job."""
    found: dict[str, list[dict[str, Any]]] = {}
    for target in get_json(OWN, "/api/v1/targets?state=active")["data"]["activeTargets"]:
        found.setdefault(target["scrapePool"], []).append({"health": target["health"], **target["labels"]})
    return found


def settled(count: int) -> Callable[[], bool]:
    """Whether each job has so many targets, all of them scraped with success."""

    def look() -> bool:
        with suppress(OSError):  # it is still starting
            found = targets()
            return all([it["health"] for it in found.get(job, [])] == ["up"] * count for job in ("services", "orders"))
        return False

    return look


def shown(log: Path) -> Callable[[], str]:
    return lambda: f"{targets()}\n{log.read_text()[-3000:]}"


def tell(found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


def main(directory: Path) -> None:
    loopback_up()
    resolve_by_us(directory)
    log, config = directory / "prometheus.log", directory / "prometheus.yml"
    config.write_text(configuration())
    argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
    with Registry(directory, HTTP, DNS) as registry, Web("one") as one, Web("two") as two, log.open("wb") as output:
        registry.register("one", one.port, Meta={"version": "1.4.0"})
        registry.register("two", two.port, Meta={"version": "1.5.0"})
        prometheus = subprocess.Popen([*argv, f"--web.listen-address=127.0.0.1:{OWN}"], stdout=output, stderr=output)
        try:
            until(settled(2), shown(log))
            tell(targets())
            registry.deregister("two")
            until(settled(1), shown(log))
            tell(targets())
        finally:
            prometheus.terminate()
            prometheus.wait(LIMIT_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

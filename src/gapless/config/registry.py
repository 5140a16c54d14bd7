"""The registry that a system may serve beside its services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gapless.core.model import Address

HTTP, DNS = Address(host="127.0.0.1", port=8500), Address(host="127.0.0.1", port=8600)
"""Where Consul's agent listens, so that clients find it without being told."""

LINGER_S = 1.0
"""Between leaving the registry and being asked to end: those who look by DNS do so once or twice a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """`http`: of Consul's API; `dns`: None = names are not answered. `node`, `datacenter`, `zone`: what it says of the
    machine; `domain`: the zone of its names; `ttl_s`: how long others may keep what a name led to; `linger_s`: how long
    an instance serves on that has left."""

    http: Address = HTTP
    dns: Address | None = DNS
    node: str = "gapless"
    datacenter: str = "dc1"
    zone: str = ""
    domain: str = "consul"
    ttl_s: int = 0
    only_passing: bool = False
    script_checks: bool = False
    linger_s: float = LINGER_S

    def status(self) -> dict[str, Any]:
        """Where it is, as plain data."""
        return {"http": str(self.http), "dns": str(self.dns) if self.dns else "", "domain": self.domain}

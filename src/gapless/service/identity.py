"""Who this process is, as its starter told it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapless.core.ports import World
    from gapless.discovery.directory import Directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Empty strings where nothing is known: a service runs as well by itself."""

    service: str = ""
    release: str = ""
    instance: str = ""
    state: str = ""
    """The control plane's state directory."""
    discovery: str = ""
    """The control plane's socket, which streams the routing table, or the address of a source (`discovery.sources`)."""
    protect: str = ""
    """The policies before the service, as `service.protect_rules` writes them."""
    zone: str = ""
    """Where it runs: its clients prefer instances there."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Identity:
        """From the variables GAPLESS_SERVICE, GAPLESS_RELEASE, GAPLESS_INSTANCE, GAPLESS_STATE, GAPLESS_DISCOVERY,
        GAPLESS_PROTECT and GAPLESS_ZONE."""
        known = os.environ if env is None else env
        return cls(
            service=known.get("GAPLESS_SERVICE", ""),
            release=known.get("GAPLESS_RELEASE", ""),
            instance=known.get("GAPLESS_INSTANCE", ""),
            state=known.get("GAPLESS_STATE", ""),
            discovery=known.get("GAPLESS_DISCOVERY", ""),
            protect=known.get("GAPLESS_PROTECT", ""),
            zone=known.get("GAPLESS_ZONE", ""),
        )

    @property
    def control(self) -> str:
        """The control plane's socket; empty when no control plane has started this process."""
        return "" if "://" in self.discovery else self.discovery

    @property
    def controlled(self) -> bool:
        """Was it started by a control plane, which tells it more than where others are?"""
        return bool(self.discovery) and "://" not in self.discovery

    def directory(self, world: World) -> Directory:
        """Where it finds other services. Raises ConfigError for a wrong address."""
        from gapless.discovery.directory import Directory

        if self.discovery and not self.controlled:
            return Directory.at(self.discovery, world)
        return Directory.of_control(self.state, self.discovery, world)

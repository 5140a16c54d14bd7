"""Who this process is, as its starter told it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Empty strings where nothing is known: a service runs as well by itself."""

    service: str = ""
    release: str = ""
    instance: str = ""
    state: str = ""
    """The control plane's state directory."""
    discovery: str = ""
    """The control plane's socket, which streams the routing table."""
    protect: str = ""
    """The policies before the service, as `service.protect_rules` writes them."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Identity:
        """From the variables GAPLESS_SERVICE, GAPLESS_RELEASE, GAPLESS_INSTANCE, GAPLESS_STATE, GAPLESS_DISCOVERY and
        GAPLESS_PROTECT."""
        known = os.environ if env is None else env
        return cls(
            service=known.get("GAPLESS_SERVICE", ""),
            release=known.get("GAPLESS_RELEASE", ""),
            instance=known.get("GAPLESS_INSTANCE", ""),
            state=known.get("GAPLESS_STATE", ""),
            discovery=known.get("GAPLESS_DISCOVERY", ""),
            protect=known.get("GAPLESS_PROTECT", ""),
        )

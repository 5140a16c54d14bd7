"""Who can reach an address that is listened on, and what must keep strangers out."""

from __future__ import annotations

from collections.abc import Sequence

REGISTRY_REMEDY = "Set GAPLESS_REGISTRY_TOKEN, which clients then show as their Consul token, or listen on 127.0.0.1."


def check_reach(binds: Sequence[str], token: str, option: str, remedy: str = REGISTRY_REMEDY) -> None:
    """Raises ConfigError for an address that others can reach and no token keeps them out. `option`: what set it."""
    from gapless.core.errors import ConfigError

    open_to_others = [bind for bind in binds if not is_local(bind)]
    if open_to_others and not token:
        raise ConfigError(
            f"{option} {open_to_others[0]} can be reached from other machines, and there is no token", remedy
        )


def is_local(bind: str) -> bool:
    """A Unix socket, or loopback."""
    from ipaddress import ip_address

    from gapless.server.listen.bind import host_port

    if bind.startswith("unix:"):
        return True
    host, _ = host_port(bind)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

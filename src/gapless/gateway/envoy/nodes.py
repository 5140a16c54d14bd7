"""Who a connected gateway is, by what its bootstrap has it say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gapless.config.settings.fields import address
from gapless.core.model import Address

LISTEN, ZONE = "gapless_listen", "gapless_zone"
"""Keys of the node's metadata."""

LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Place:
    """What differs between gateways of one system: where each listens, and where it is."""

    listen: Address
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """`place`: None = on this machine, started by the control plane. `version` is Envoy's."""

    name: str
    version: str = ""
    place: Place | None = None


LOCAL = Node("gapless")


def node_of(message: Any, away: bool) -> Node:
    """From an envoy.config.core.v3.Node. `away`: it must say where it listens. Raises ValueError."""
    version = message.user_agent_build_version.version
    told = f"{version.major_number}.{version.minor_number}.{version.patch}"
    name = "".join(sign for sign in message.id if sign.isprintable())[:LONGEST_NAME]
    if not away:
        return Node(name, told)
    fields = message.metadata.fields
    listen = address(fields[LISTEN].string_value if LISTEN in fields else "")
    zone = fields[ZONE].string_value[:LONGEST_NAME] if ZONE in fields else ""
    return Node(name, told, Place(listen, zone))

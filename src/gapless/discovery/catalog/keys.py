"""Where the registry's rows lie in the store. Names may hold any text: what would reach outside its place is encoded.

Removals leave traces (`gone`, `left`, `lifted`): the revision of the last one keeps indexes from going back when the
row that raised them is no longer there, also over a restart.
"""

from __future__ import annotations

from typing import NamedTuple

PREFIX = "catalog/"
NODES = f"{PREFIX}node/"
SERVICES = f"{PREFIX}service/"
CHECKS = f"{PREFIX}check/"
WEIGHTS = f"{PREFIX}weight/"
GONE = f"{PREFIX}gone/"
LEFT = f"{PREFIX}left/"
LIFTED = f"{PREFIX}lifted/"
ALIVE = f"{PREFIX}alive/"
FLOOR = f"{PREFIX}floor"
"""Written whenever traces are thinned out: no index is below its revision after a restart."""

_ESCAPES = str.maketrans({"%": "%25", "/": "%2F", "\0": "%00"})


class Place(NamedTuple):
    """What a key is of: `kind` is one of node, service, check, weight, alive, gone, left, lifted, floor."""

    kind: str
    names: tuple[str, ...]


def node_key(node: str) -> str:
    return NODES + _safe(node)


def instance_key(service: str, node: str, instance: str) -> str:
    return f"{SERVICES}{_safe(service)}/{_safe(node)}/{_safe(instance)}"


def check_key(node: str, check: str) -> str:
    return f"{CHECKS}{_safe(node)}/{_safe(check)}"


def weight_key(service: str, node: str, instance: str) -> str:
    """The share that is left of an instance's weight while its callers complain."""
    return f"{WEIGHTS}{_safe(service)}/{_safe(node)}/{_safe(instance)}"


def alive_key(node: str) -> str:
    """There, on a lease, while the agent of the node lives."""
    return ALIVE + _safe(node)


def gone_key(service: str) -> str:
    """Written whenever an instance or a check of the service is removed."""
    return GONE + _safe(service)


def left_key(node: str = "") -> str:
    """Written whenever something on the node is removed; without a name, whenever a node is."""
    return LEFT + _safe(node)


def lifted_key(node: str) -> str:
    """Written whenever a check of the node itself is removed, which concerns all instances on it."""
    return LIFTED + _safe(node)


def place_of(key: str) -> Place:
    """What a key below PREFIX is of, with its names decoded."""
    kind, *names = key[len(PREFIX) :].split("/")
    return Place(kind, tuple(map(_plain, names) if "%" in key else names))


def _safe(name: str) -> str:
    return name.translate(_ESCAPES)


def _plain(name: str) -> str:
    return name.replace("%2F", "/").replace("%00", "\0").replace("%25", "%")

"""Addresses of stores: what kind they are of, and how they are shown."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

SECRET = ("token",)


SHARED = ("etcd", "etcds", "consul", "consuls")
"""Schemes of stores that several processes, on several machines, can use at a time."""


def shared(where: str) -> bool:
    """Whether several control planes may use the store at this address, and so must elect one that leads."""
    return where.partition(":")[0] in SHARED


def shown(where: str) -> str:
    """The address without its secrets."""
    parts = urlsplit(where)
    if "://" not in where:
        return where
    query = [(name, "…" if name in SECRET else value) for name, value in parse_qsl(parts.query)]
    asked = "&".join(f"{name}={value}" for name, value in query)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?' if asked else ''}{asked}"

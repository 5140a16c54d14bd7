"""The address of a store, as it may be written in gapless.yaml or behind `--store`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

SCHEMES = ("memory", "sqlite", "etcd", "etcds", "consul", "consuls")
FILES = ("ca", "cert", "key")
"""Parts of an address that are paths."""


def store_address(value: str) -> str:
    """The address, when its kind is known; all else is for the store itself to judge. Raises ValueError."""
    if value and value.partition(":")[0] not in SCHEMES:
        raise ValueError(
            "not the address of a store; write sqlite:PATH, etcd://HOST:2379/PREFIX/ or consul://HOST:8500"
        )
    return value


def located(where: str, base: Path) -> str:
    """The address with its relative paths made absolute: those in a file are relative to the file."""
    scheme, _, rest = where.partition(":")
    if scheme == "sqlite":
        return f"sqlite:{base / rest}"
    parts = urlsplit(where)
    if not parts.query:
        return where
    asked = [
        (name, str(base / value) if name in FILES else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return parts._replace(query=urlencode(asked, safe="/")).geturl()

"""The headers of the request that is being served, for whatever is called on its behalf."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

NONE: Mapping[bytes, bytes] = {}
headers: ContextVar[Mapping[bytes, bytes]] = ContextVar("gapless_inbound", default=NONE)


def text(name: bytes) -> str:
    """A header of the present request; empty when there is none."""
    return headers.get().get(name, b"").decode("latin-1")

"""The headers of the request that is being served, for whatever is called on its behalf."""

from __future__ import annotations

from collections.abc import Mapping

from gapless.resilience import pushback

NONE: Mapping[bytes, bytes] = {}


def headers() -> Mapping[bytes, bytes]:
    """Those of the present request; none outside of one."""
    present = pushback.served.get()
    return NONE if present is None else present.headers


def text(name: bytes) -> str:
    """A header of the present request; empty when there is none."""
    return headers().get(name, b"").decode("latin-1")

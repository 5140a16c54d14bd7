"""The web console of a system."""

from __future__ import annotations

from dataclasses import dataclass

from gapless.core.model import Address

LISTEN = Address(host="127.0.0.1", port=8070)


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """`listen`: None = the usual address, or the next free port when another system's console is there. `hosts`:
    further names that it is opened by."""

    listen: Address | None = None
    hosts: tuple[str, ...] = ()

"""Connection pools that a service declares, so that what they come to can be told beforehand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredPool:
    """`name`: of what it leads to; services that share it give it the same name. `size`: connections of each worker, at
    most. `most`: what the other side allows all of them together; 0: not known."""

    name: str
    size: int
    most: int = 0

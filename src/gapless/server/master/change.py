"""When a change of files is a reason to reload, purely: once it has been quiet for a while, and each version once."""

from __future__ import annotations

from typing import NamedTuple

MISSING = 0
"""What is seen while a path is not there: a file that is being replaced, or a directory between two links."""


class Watched(NamedTuple):
    """Versions are opaque numbers."""

    tried: int
    """What runs, or was refused."""
    seen: int
    since: float


def looked(watched: Watched | None, seen: int, now: float, quiet_s: float) -> tuple[Watched, bool]:
    """After a look at the files; whether to reload now. Whoever could not (busy) puts the old `tried` back."""
    if watched is None:
        return Watched(seen, seen, now), False
    if seen != watched.seen:
        return watched._replace(seen=seen, since=now), False
    if seen in (watched.tried, MISSING) or now - watched.since < quiet_s:
        return watched, False
    return watched._replace(tried=seen), True

"""When releases may be moved: openings in the week, and dated freezes. Decided by `rollout.calendar`."""

from __future__ import annotations

from dataclasses import dataclass

EVERY_DAY = (0, 1, 2, 3, 4, 5, 6)
DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """On these days (Monday is 0), between two times of the clock on the wall, in minutes after midnight. One that ends
    at or before its beginning goes on past midnight, and belongs to the day on which it begins."""

    days: tuple[int, ...] = EVERY_DAY
    from_min: int = 0
    until_min: int = DAY_MIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """From a moment until, but not including, another one."""

    from_at: float
    until_at: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Rollouts begin and go forward within its openings (none: always) and outside its freezes. `owner` is who wrote
    it, for messages."""

    owner: str = ""
    zone: str = "UTC"
    """A time zone of the IANA database, by which openings are read."""
    openings: tuple[Opening, ...] = ()
    freezes: tuple[Freeze, ...] = ()

"""Whether releases may be moved at a moment, and if not, until when. Pure; openings are read by the clock on the wall.

When clocks are set forward, an opening whose beginning is skipped begins with the first moment after the gap; when they
are set back, what is open in the repeated hour is open both times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gapless.core.model import Calendar, Freeze, Opening

AHEAD_DAYS = 9
"""Every opening begins within a week; more, because a gap can take a beginning away."""
TRIES = 100
"""Freezes and openings to pass on the way to the next moment at which all are open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Why not now, and when it opens; None when that is not within sight."""

    reason: str
    until_at: float | None
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"{self.reason}; open again {self.until}"

    @property
    def until(self) -> str:
        if self.until_at is None:
            return "at no time within sight"
        return datetime.fromtimestamp(self.until_at, ZoneInfo(self.zone)).strftime("%a %Y-%m-%d %H:%M %Z")


def closed(calendars: Iterable[Calendar], now_at: float) -> Closed | None:
    """None when all calendars are open. `now_at`: seconds since the epoch."""
    calendars = tuple(calendars)
    for calendar in calendars:
        if reason := _shut(calendar, now_at):
            return Closed(reason=reason, until_at=opens(calendars, now_at), zone=calendar.zone)
    return None


def opens(calendars: Iterable[Calendar], now_at: float) -> float | None:
    """The first moment from `now_at` on at which all are open."""
    calendars = tuple(calendars)
    for _ in range(TRIES):
        later = [_next(calendar, now_at) for calendar in calendars if _shut(calendar, now_at)]
        if not later:
            return now_at
        known = [at for at in later if at is not None]
        if len(known) < len(later):
            return None
        now_at = max(known)
    return None


def _shut(calendar: Calendar, now_at: float) -> str:
    if freeze := _frozen(calendar, now_at):
        return f"{calendar.owner} is frozen: {freeze.reason}"
    local = datetime.fromtimestamp(now_at, ZoneInfo(calendar.zone))
    if not calendar.openings or any(_within(opening, local) for opening in calendar.openings):
        return ""
    return f"it is outside the windows of {calendar.owner}"


def _frozen(calendar: Calendar, now_at: float) -> Freeze | None:
    return next((freeze for freeze in calendar.freezes if freeze.from_at <= now_at < freeze.until_at), None)


def _within(opening: Opening, local: datetime) -> bool:
    minute, today = local.hour * 60 + local.minute, local.weekday()
    if opening.from_min < opening.until_min:
        return today in opening.days and opening.from_min <= minute < opening.until_min
    yesterday = (today - 1) % 7
    return (today in opening.days and minute >= opening.from_min) or (
        yesterday in opening.days and minute < opening.until_min
    )


def _next(calendar: Calendar, now_at: float) -> float | None:
    """The first moment after `now_at` at which a calendar that is shut may open."""
    if freeze := _frozen(calendar, now_at):
        return freeze.until_at
    return min((at for at in _turns(calendar, now_at) if at > now_at), default=None)


def _turns(calendar: Calendar, now_at: float) -> Iterator[float]:
    """Beginnings of openings, and the moments at which clocks are set, of the next days."""
    zone = ZoneInfo(calendar.zone)
    first = datetime.fromtimestamp(now_at, zone).date()
    for day in (first + timedelta(days=ahead) for ahead in range(AHEAD_DAYS)):
        yield from _set(zone, day)
        for opening in calendar.openings:
            if day.weekday() in opening.days:
                yield from _moments(zone, day, opening.from_min)


def _moments(zone: ZoneInfo, day: date, minute: int) -> Iterator[float]:
    """The moments at which clocks show this: one, two in a repeated hour, none in a gap."""
    wall = datetime.combine(day, time(minute // 60, minute % 60))
    for fold in (0, 1):
        moment_at = wall.replace(tzinfo=zone, fold=fold).timestamp()
        if datetime.fromtimestamp(moment_at, zone).replace(tzinfo=None) == wall:
            yield moment_at


def _set(zone: ZoneInfo, day: date) -> Iterator[float]:
    """The moment of a day at which its clocks are set, if they are. To the minute."""
    low, high = (int(datetime.combine(day + timedelta(days=n), time(), UTC).timestamp()) // 60 for n in (-1, 2))
    before = _offset(zone, low)
    if before == _offset(zone, high):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
    yield high * 60.0


def _offset(zone: ZoneInfo, minute: int) -> timedelta | None:
    return datetime.fromtimestamp(minute * 60, zone).utcoffset()

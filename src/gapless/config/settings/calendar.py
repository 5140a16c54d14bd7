"""`windows:` and `freeze:`, of the system's `rollout:` and of each service's."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from gapless.config.base import Settings
from gapless.config.settings.fields import text
from gapless.core.model import Calendar, Freeze, Opening
from gapless.core.model.calendar import DAY_MIN, EVERY_DAY

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
UTC = "UTC"
_HOURS = re.compile(r"(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)")


def known_zone(value: str) -> str:
    """The name of a time zone. Raises ValueError."""
    try:
        ZoneInfo(value)
    except (OSError, ValueError):
        raise ValueError("not a time zone") from None
    except ZoneInfoNotFoundError:
        raise ValueError(
            'this machine knows no such time zone; write for instance "Europe/Berlin", or install tzdata'
        ) from None
    return value


def days_of(value: Any) -> tuple[int, ...]:
    """`mon-fri`, `sat, sun`, or a list of days: Monday is 0. Raises ValueError."""
    parts = value if isinstance(value, list) else str(value).split(",")
    found = {day for part in parts for day in _span(str(part).strip().lower())}
    if not found:
        raise ValueError('no day; write for instance "mon-fri"')
    return tuple(sorted(found))


def _span(part: str) -> list[int]:
    first, _, last = part.partition("-")
    if first not in DAYS or (last and last not in DAYS):
        raise ValueError(f'"{part}" is no day and no span of days; write for instance "mon-fri" or "sat, sun"')
    begin, end = DAYS.index(first), DAYS.index(last or first)
    return [day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)]


def hours_of(value: Any) -> tuple[int, int]:
    """`09:00-17:30` in minutes after midnight; `22:00-04:00` goes on past midnight. Raises ValueError."""
    found = _HOURS.fullmatch(str(value).strip())
    begin, end = (int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])) if found else (-1, -1)
    if not found or begin >= DAY_MIN or end > DAY_MIN or int(found[2]) > 59 or int(found[4]) > 59:
        raise ValueError('not hours of a day; write for instance "09:00-17:30"')
    if begin == end:
        raise ValueError("it ends when it begins; leave hours out for the whole day")
    return begin, end


def moment(value: Any) -> date | datetime:
    """A date, or a date with a time. Raises ValueError."""
    written = str(value).strip()
    try:
        found = date.fromisoformat(written) if len(written) <= len("2026-12-24") else datetime.fromisoformat(written)
    except ValueError:
        found = date.min
    if not 1970 < found.year < 3000:
        raise ValueError('not a date; write for instance "2026-12-24" or "2026-12-24 18:00"')
    return found


def _window(value: Any) -> Any:
    """`mon-fri 09:00-17:00`, or either part of it, is short for a mapping of both."""
    if isinstance(value, dict):
        return value
    written = str(value)
    found = _HOURS.search(written)
    named = (written[: found.start()] if found else written).strip()
    return WindowSettings.model_construct(
        days=days_of(named) if named else EVERY_DAY,
        hours=hours_of(written[found.start() :]) if found else (0, DAY_MIN),
    )


_MOMENT_SCHEMA = WithJsonSchema({"type": "string", "pattern": r"^\d{4}-\d\d-\d\d"})
Moment = Annotated[Any, BeforeValidator(moment), _MOMENT_SCHEMA]


class WindowSettings(Settings):
    days: Annotated[
        tuple[int, ...],
        BeforeValidator(days_of),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"enum": list(DAYS)}}]}),
        Field(
            description="Days on which it begins; left out: every day.",
            examples=["mon-fri"],
            json_schema_extra={"default": "mon-sun"},
        ),
    ] = EVERY_DAY
    hours: Annotated[
        tuple[int, int],
        BeforeValidator(hours_of),
        WithJsonSchema({"type": "string", "pattern": _HOURS.pattern}),
        Field(
            description="From and until; left out: the whole day.",
            examples=["09:00-17:00"],
            json_schema_extra={"default": "00:00-24:00"},
        ),
    ] = (0, DAY_MIN)

    def value(self) -> Opening:
        return Opening(days=self.days, from_min=self.hours[0], until_min=self.hours[1])


class FreezeSettings(Settings):
    from_: Annotated[
        Moment, Field(alias="from", description="Date, or date and time, of its beginning.", examples=["2026-12-18"])
    ]
    until: Annotated[
        Moment,
        Field(description="Its end; a date includes that whole day.", examples=["2027-01-03", "2027-01-04 08:00"]),
    ]
    reason: Annotated[str, BeforeValidator(text), Field(min_length=1, description="Why; told to whoever deploys.")]

    @model_validator(mode="after")
    def _forward(self) -> FreezeSettings:
        if _end(self.until, ZoneInfo(UTC)) <= _begin(self.from_, ZoneInfo(UTC)):
            raise ValueError("it ends before it begins")
        return self

    def value(self, zone: ZoneInfo) -> Freeze:
        return Freeze(
            from_at=_begin(self.from_, zone).timestamp(),
            until_at=_end(self.until, zone).timestamp(),
            reason=self.reason,
        )


def _begin(value: date | datetime, zone: ZoneInfo) -> datetime:
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), zone)
    return value if value.tzinfo else value.replace(tzinfo=zone)


def _end(value: date | datetime, zone: ZoneInfo) -> datetime:
    return _begin(value if isinstance(value, datetime) else value + timedelta(days=1), zone)


class CalendarSettings(Settings):
    zone: Annotated[
        str,
        BeforeValidator(text),
        AfterValidator(known_zone),
        Field(
            description="Time zone of `windows` and `freeze`; left out at a service: the system's.",
            examples=["Europe/Berlin"],
            json_schema_extra={"default": UTC},
        ),
    ] = ""
    windows: Annotated[
        tuple[Annotated[WindowSettings, BeforeValidator(_window)], ...],
        Field(
            description="When rollouts may begin and go forward; none: always. Going back is always possible.",
            examples=[["mon-thu 09:00-16:30", {"days": "fri", "hours": "09:00-12:00"}]],
        ),
    ] = ()
    freeze: Annotated[
        tuple[FreezeSettings, ...],
        Field(
            description="Dated times in which they may not.",
            examples=[[{"from": "2026-12-18", "until": "2027-01-03", "reason": "year's end"}]],
        ),
    ] = ()

    def calendar(self, owner: str, zone: str = UTC) -> Calendar:
        """`zone`: where none is given here."""
        zone = self.zone or zone
        return Calendar(
            owner=owner,
            zone=zone,
            openings=tuple(window.value() for window in self.windows),
            freezes=tuple(freeze.value(ZoneInfo(zone)) for freeze in self.freeze),
        )

"""Windows and freezes, against an oracle that looks at every minute; across the days on which clocks are set."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.model import Calendar, Freeze, Opening
from gapless.rollout.calendar import closed, opens

BERLIN = "Europe/Berlin"
WORK = Calendar(owner="orders", zone=BERLIN, openings=(Opening(days=(0, 1, 2, 3), from_min=540, until_min=1020),))


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def test_without_a_calendar_it_is_always_open() -> None:
    assert closed([], 1.0) is None
    assert closed([Calendar(owner="x")], 1.0) is None


def test_outside_the_windows_the_next_one_is_told() -> None:
    assert closed([WORK], at("2026-11-30 09:00")) is None
    assert closed([WORK], at("2026-11-30 16:59")) is None
    shut = closed([WORK], at("2026-11-26 17:00"))
    assert shut
    assert str(shut) == "it is outside the windows of orders; open again Mon 2026-11-30 09:00 CET"


def test_a_freeze_is_told_with_its_reason_and_ends_into_the_next_window() -> None:
    freeze = Freeze(from_at=at("2026-12-18 00:00"), until_at=at("2027-01-03 00:00"), reason="year's end")
    ours = Calendar(owner="the system", zone=BERLIN, freezes=(freeze,))
    assert closed([ours], at("2026-12-17 23:59")) is None
    assert closed([ours], at("2027-01-03 00:00")) is None
    shut = closed([ours, WORK], at("2026-12-18 00:00"))
    assert shut
    assert shut.reason == "the system is frozen: year's end"
    assert shut.until_at == at("2027-01-04 09:00")


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    friday = Calendar(owner="x", openings=(Opening(days=(4,), from_min=22 * 60, until_min=4 * 60),))
    assert closed([friday], at("2026-12-05 03:59", "UTC")) is None
    assert closed([friday], at("2026-12-05 04:00", "UTC"))
    assert closed([friday], at("2026-12-04 03:00", "UTC"))


def test_windows_that_never_meet_are_never_open() -> None:
    one = Calendar(owner="a", openings=(Opening(days=(0,)),))
    other = Calendar(owner="b", openings=(Opening(days=(1,)),))
    shut = closed([one, other], at("2026-11-30 12:00", "UTC"))
    assert shut
    assert shut.until_at is None
    assert "at no time within sight" in str(shut)


def test_a_beginning_that_the_clocks_skip_is_the_moment_after_the_gap() -> None:
    nightly = Calendar(owner="x", zone=BERLIN, openings=(Opening(from_min=150, until_min=240),))
    assert opens([nightly], at("2026-03-29 01:30")) == at("2026-03-29 03:00")
    gone = Calendar(owner="x", zone=BERLIN, openings=(Opening(from_min=130, until_min=170),))
    assert opens([gone], at("2026-03-29 01:30")) == at("2026-03-30 02:10")


def test_in_the_repeated_hour_it_is_open_both_times() -> None:
    nightly = Calendar(owner="x", zone=BERLIN, openings=(Opening(from_min=60, until_min=150),))
    assert closed([nightly], at("2026-10-25 02:29", fold=0)) is None
    assert opens([nightly], at("2026-10-25 02:30", fold=0)) == at("2026-10-25 02:00", fold=1)


zones = st.sampled_from(
    [BERLIN, "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu", "UTC"]
)
minutes = st.integers(0, 1439)
openings = st.builds(
    lambda days, begin, length: Opening(
        days=tuple(sorted(days)), from_min=begin, until_min=(begin + length) % 1440 or 1440
    ),
    st.sets(st.integers(0, 6), min_size=1),
    minutes,
    st.integers(1, 1439),
)
BEGIN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
moments = st.one_of(
    st.integers(0, 365 * 24 * 60).map(lambda minute: BEGIN + minute * 60.0),
    # The nights on which some of these zones set their clocks.
    st.builds(
        lambda day, minute: datetime.fromisoformat(f"{day}T00:00+00:00").timestamp() + minute * 60,
        st.sampled_from(["2026-03-08", "2026-03-29", "2026-04-04", "2026-10-03", "2026-10-25", "2026-11-01"]),
        st.integers(-600, 1_500),
    ),
)
freezes = st.builds(
    lambda begin, length: Freeze(from_at=begin, until_at=begin + length * 60, reason="why"),
    moments,
    st.integers(1, 9_000),
)
calendars = st.builds(
    lambda zone, weekly, dated: Calendar(owner="x", zone=zone, openings=tuple(weekly), freezes=tuple(dated)),
    zones,
    st.lists(openings, max_size=3),
    st.lists(freezes, max_size=2),
)


def shut_at(calendar: Calendar, moment_at: float) -> bool:
    """By another way than the product's: minute by minute, on the wall."""
    if any(freeze.from_at <= moment_at < freeze.until_at for freeze in calendar.freezes):
        return True
    wall = datetime.fromtimestamp(moment_at, ZoneInfo(calendar.zone))
    week = wall.weekday() * 1_440 + wall.hour * 60 + wall.minute
    lengths = [(o, (o.until_min - o.from_min) % 1_440 or 1_440) for o in calendar.openings]
    return bool(lengths) and not any(
        (week - day * 1_440 - opening.from_min) % 10_080 < length for opening, length in lengths for day in opening.days
    )


@settings(deadline=None)
@given(st.lists(calendars, min_size=1, max_size=2), moments, st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_the_moment_told_is_the_first_at_which_all_are_open(
    mine: list[Calendar], now_at: float, looks: list[float]
) -> None:
    shut = closed(mine, now_at)
    if shut is None:
        assert opens(mine, now_at) == now_at
        return
    assert shut.reason
    if shut.until_at is not None:
        assert closed(mine, shut.until_at) is None
    end_at = min(shut.until_at or now_at + 86_400, now_at + 2 * 86_400)
    for place in looks:
        look_at = now_at + (end_at - now_at) * place // 60 * 60
        assert look_at >= end_at or any(shut_at(calendar, look_at) for calendar in mine)


@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Australia/Lord_Howe"])
def test_every_opening_of_a_year_is_found(zone: str) -> None:
    """One opening a day, in the hour in which clocks are set: 365 of them, whatever the clocks do."""
    nightly = [Calendar(owner="x", zone=zone, openings=(Opening(from_min=100, until_min=200),))]
    opened = [opens(nightly, BEGIN + 43_200.0)]
    while opened[-1] is not None and opened[-1] < BEGIN + 43_200 + 365 * 86_400:
        opened.append(opens(nightly, opened[-1] + 4 * 3_600))
    assert len(opened) == 366  # the last one is of the day after

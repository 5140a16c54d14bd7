"""Durations as Go reads and prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("10s", 10),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("120000ms", 120),
        ("-2s", -2),
        ("+.5s", 0.5),
        ("7us", 7e-6),
        ("3µs", 3e-6),
        ("5ns", 5e-9),
        ("1h0m0.5s", 3600.5),
    ],
)
def test_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", 'time: invalid duration ""'),
        ("soon", 'time: invalid duration "soon"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5d", 'time: unknown unit "d" in duration "5d"'),
        ("1s.", 'time: invalid duration "1s."'),
        ("999999999h", 'time: invalid duration "999999999h"'),
    ],
)
def test_refused_in_the_words_of_go(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace(".", r"\.")):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (10, "10s"),
        (90, "1m30s"),
        (86400, "24h0m0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (-3, "-3s"),
        (1.5e-6, "1.5µs"),
        (2e-9, "2ns"),
    ],
)
def test_printed(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(-(10**15), 10**15))
def test_what_is_printed_is_read_again(nanos: int) -> None:
    assert parse_duration(format_duration(nanos / 1e9)) == pytest.approx(nanos / 1e9, abs=1e-9, rel=1e-12)


@given(st.text(max_size=12))
def test_anything_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert abs(seconds) < 2**63 / 1e9

"""Due times are a pure function of the rate."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from gapless.load import schedule

rates = st.floats(0.1, 5_000)


@given(rate=rates, for_s=st.floats(0.01, 20))
def test_every_request_of_the_time_is_due_and_none_after_it(rate: float, for_s: float) -> None:
    due = list(itertools.islice(schedule.offsets(rate, for_s), 2_000))
    assert all(0 <= offset < for_s + 1e-5 / rate for offset in due)
    assert len(due) == min(2_000, schedule.count(rate, for_s))
    assert abs(schedule.count(rate, for_s) - rate * for_s) <= 1


@given(rate=rates)
def test_the_distance_never_drifts(rate: float) -> None:
    due = list(itertools.islice(schedule.offsets(rate), 1_000))
    assert all(math.isclose(offset, number / rate) for number, offset in enumerate(due))


def test_round_numbers_come_out_round() -> None:
    assert schedule.count(50, 30) == 1_500
    assert schedule.count(0.1 * 3, 10) == 3  # 0.1 * 3 is a little more than 0.3
    assert schedule.count(40, math.inf) == math.inf

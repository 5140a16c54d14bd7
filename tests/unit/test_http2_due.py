"""What a silent connection comes to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.server.http.client_limits import SEND_S
from gapless.server.http2.due import (
    LINGER_S,
    PONG_S,
    ROUND_TRIP_S,
    SILENCE_S,
    Act,
    Phase,
    Times,
    due,
)

IDLE = Times(phase=Phase.OPEN, phase_at=0.0, keep_alive_s=75.0, head_s=20.0, busy=False, quiet_at=100.0, heard_at=100.0)
BUSY = IDLE._replace(busy=True)


@pytest.mark.parametrize(
    ("times", "at", "act"),
    [
        (IDLE, 175.0, Act.RETIRE),
        (BUSY, 100.0 + SILENCE_S, Act.ASK),
        (BUSY._replace(pinged_at=130.0), 130.0 + PONG_S, Act.ABORT),
        (BUSY._replace(pinged_at=130.0, heard_at=130.1), 130.1 + SILENCE_S, Act.ASK),
        (IDLE._replace(phase=Phase.TOLD, phase_at=100.0), 100.0 + ROUND_TRIP_S, Act.SAY_LAST),
        (BUSY._replace(phase=Phase.LAST, phase_at=100.0), 100.0 + SILENCE_S, Act.ASK),
        (BUSY._replace(head_at=100.0), 120.0, Act.TOO_SLOW),
        (BUSY._replace(heard_at=150.0, paused_at=100.0), 100.0 + SEND_S, Act.ABORT),
        (BUSY._replace(heard_at=150.0, stalled_at=100.0), 100.0 + SEND_S, Act.DROP_STALLED),
        (BUSY._replace(phase=Phase.CLOSING, phase_at=100.0), 100.0 + LINGER_S, Act.CLOSE),
    ],
)
def test_what_is_due(times: Times, at: float, act: Act) -> None:
    assert due(times) == (at, act)


def test_a_close_that_does_not_end_is_forced() -> None:
    closing = IDLE._replace(phase=Phase.CLOSING, phase_at=100.0, closed=True)
    assert due(closing)[1] is Act.ABORT


MOMENTS = st.one_of(st.just(0.0), st.floats(1.0, 1000.0))


@given(
    st.builds(
        Times,
        phase=st.sampled_from(Phase),
        phase_at=MOMENTS,
        keep_alive_s=st.floats(1.0, 100.0),
        head_s=st.floats(0.0, 100.0),
        busy=st.booleans(),
        quiet_at=MOMENTS,
        heard_at=MOMENTS,
        pinged_at=MOMENTS,
        head_at=MOMENTS,
        paused_at=MOMENTS,
        stalled_at=MOMENTS,
        closed=st.booleans(),
    )
)
def test_no_connection_is_forgotten(times: Times) -> None:
    """Whatever has come to pass, something is due within the longest of the limits."""
    latest = max(times.phase_at, times.quiet_at, times.heard_at, times.pinged_at)
    assert due(times)[0] <= latest + max(times.keep_alive_s, SEND_S)

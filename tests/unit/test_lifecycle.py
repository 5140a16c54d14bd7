"""The life of an instance: only the allowed moves, whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.errors import InvalidTransition
from gapless.core.lifecycle import ANNOUNCE_S, MOVES, PROBES_TO_UNREADY, drain_limits, move, probed
from gapless.core.model import Address, Instance, Phase

PHASES = st.sampled_from(list(Phase))


def instance(phase: Phase = Phase.STARTING, failures: int = 0) -> Instance:
    address = Address(host="127.0.0.1", port=1)
    return Instance(id="i", service="s", release="1", address=address, phase=phase, failures=failures)


def test_every_phase_has_its_moves_and_all_lives_can_end() -> None:
    assert set(MOVES) == set(Phase)
    assert all(Phase.STOPPED in moves for phase, moves in MOVES.items() if phase is not Phase.STOPPED)
    assert MOVES[Phase.STOPPED] == frozenset()


@settings(deadline=None)
@given(phase=PHASES, to=PHASES, now=st.floats(0, 1e9))
def test_move_does_what_the_table_says(phase: Phase, to: Phase, now: float) -> None:
    before = instance(phase, failures=2)
    if to is phase:
        assert move(before, to, now) is before
    elif to in MOVES[phase]:
        after = move(before, to, now, "why")
        assert (after.phase, after.since_at, after.detail, after.failures) == (to, now, "why", 0)
        assert after.was_ready == (to is Phase.READY)
    else:
        with pytest.raises(InvalidTransition, match=f"i cannot go from {phase} to {to}"):
            move(before, to, now)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=30))
def test_probes_make_only_allowed_moves(answers: list[bool]) -> None:
    """Any run of probes equals this small model: a success makes ready, three failures in a row make unready."""
    now, in_a_row, phase = instance(), 0, Phase.STARTING
    for at, ok in enumerate(answers):
        before, now = now, probed(now, ok, float(at), "refused")
        in_a_row = 0 if ok else in_a_row + 1
        if ok:
            phase = Phase.READY
        elif phase is Phase.READY and in_a_row >= PROBES_TO_UNREADY:
            phase = Phase.UNREADY
        assert (now.phase, now.failures) == (phase, in_a_row)
        assert now.phase in MOVES[before.phase] | {before.phase}
        assert now.was_ready == any(answers[: at + 1])
        assert (now.since_at == at) == (now.phase is not before.phase) or at == 0


@settings(deadline=None)
@given(phase=st.sampled_from([Phase.DRAINING, Phase.STOPPED]), ok=st.booleans())
def test_probes_do_not_bring_back_what_goes(phase: Phase, ok: bool) -> None:
    assert probed(instance(phase), ok, 1.0).phase is phase


@settings(deadline=None)
@given(total=st.floats(0, 1e6), announce=st.floats(0, 1e3))
def test_drain_limits_sum_to_the_whole(total: float, announce: float) -> None:
    limits = drain_limits(total, announce)
    stages = (limits.announce_s, limits.finish_s, limits.close_s)
    assert sum(stages) == pytest.approx(total)
    assert all(stage >= 0 for stage in stages)
    assert limits.announce_s <= announce
    assert limits.finish_s >= limits.announce_s


@settings(deadline=None)
@given(st.floats(max_value=0, allow_nan=False))
def test_a_drain_without_time_has_empty_stages(total: float) -> None:
    limits = drain_limits(total)
    assert (limits.announce_s, limits.finish_s, limits.close_s) == (0, 0, 0)


def test_a_usual_drain_announces_for_its_usual_time() -> None:
    assert drain_limits(30).announce_s == ANNOUNCE_S

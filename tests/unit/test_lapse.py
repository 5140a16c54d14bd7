"""Reverse heartbeat and mass expiry: nobody is evicted unasked, nor anybody when it is the registry that is cut off."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gapless.discovery.lapse import (
    GRACE_S,
    MASS_PROBES,
    RETRY_S,
    Evict,
    Lapses,
    Probe,
    Standing,
    Welcome,
)

TTL_S = 10.0


def watched(count: int) -> Lapses:
    lapses = Lapses()
    for number in range(count):
        lapses.heard(f"i{number}", TTL_S, 0.0)
    return lapses


def keep(lapses: Lapses, count: int, now: float) -> None:
    """The first so many are heard of."""
    for number in range(count):
        lapses.heard(f"i{number}", TTL_S, now)


def test_a_lapse_is_followed_by_a_question_and_only_no_answer_by_eviction() -> None:
    lapses = watched(10)
    keep(lapses, 9, 5.0)
    assert lapses.due() == TTL_S
    assert lapses.tick(TTL_S) == [Probe("i9")]
    assert lapses.standing("i9") is Standing.LAPSED
    (evicted,) = lapses.probed("i9", False, TTL_S + 0.1)
    assert isinstance(evicted, Evict)
    assert evicted.reason == "not heard of for 10 s, and a probe failed"
    assert lapses.standing("i9") is Standing.CRITICAL


def test_one_that_answers_stays_and_is_asked_again_a_time_to_live_later() -> None:
    lapses = watched(1)
    lapses.tick(TTL_S)
    assert lapses.probed("i0", True, 11.0) == [Welcome("i0")]
    assert lapses.standing("i0") is Standing.PASSING
    assert lapses.due() == 21.0


def test_a_heartbeat_during_the_probe_settles_it() -> None:
    lapses = watched(1)
    lapses.tick(TTL_S)
    assert lapses.heard("i0", TTL_S, 10.5) == [Welcome("i0")]
    assert lapses.probed("i0", False, 11.0) == []
    assert lapses.standing("i0") is Standing.PASSING


def test_a_critical_one_is_asked_on_and_found_again() -> None:
    lapses = watched(1)
    lapses.tick(TTL_S)
    lapses.probed("i0", False, 10.0)
    assert lapses.due() == 10.0 + RETRY_S
    assert lapses.tick(11.0) == [Probe("i0")]
    assert lapses.probed("i0", True, 11.1) == [Welcome("i0")]


def test_when_all_lapse_at_once_and_nobody_answers_nobody_is_evicted() -> None:
    lapses = watched(10)
    actions = lapses.tick(TTL_S)
    assert len(actions) == 10
    assert lapses.mass
    for round_ in range(20):
        now = TTL_S + round_ * RETRY_S
        for number in range(10):
            assert lapses.probed(f"i{number}", False, now) == []
        assert lapses.tick(now + RETRY_S) == [Probe(f"i{number}") for number in range(10)]


def test_in_a_mass_expiry_answers_show_that_it_is_not_us_and_the_dead_go_after_several_probes() -> None:
    lapses = watched(10)
    lapses.tick(TTL_S)
    for number in range(8):
        lapses.probed(f"i{number}", True, TTL_S)
    found = [lapses.probed("i9", False, TTL_S + n) for n in range(MASS_PROBES)]
    assert found[:-1] == [[]] * (MASS_PROBES - 1)
    assert found[-1] == [Evict("i9", f"not heard of for 10 s, and {MASS_PROBES} probes failed")]
    assert lapses.probed("i8", True, TTL_S + 5) == [Welcome("i8")]
    assert not lapses.mass


def test_after_a_restart_there_is_a_grace_period() -> None:
    lapses = Lapses()
    lapses.restarted({"a": 1.0, "b": 60.0}, 100.0)
    assert lapses.tick(100.0 + GRACE_S - 0.1) == []
    assert lapses.tick(100.0 + GRACE_S) == [Probe("a")]
    assert lapses.due() == 160.0


def test_a_heartbeat_takes_no_room() -> None:
    lapses = watched(3)
    for n in range(1000):
        keep(lapses, 3, n / 100)
    assert len(lapses._agenda) == 3
    assert lapses.due() == 9.99 + TTL_S


class Model(RuleBasedStateMachine):
    """Random lives: whoever is evicted was asked and did not answer since it was last heard of."""

    def __init__(self) -> None:
        super().__init__()
        self.lapses, self.now = Lapses(), 0.0
        self.heard: dict[str, float] = {}
        self.failed: dict[str, int] = {}
        self.asked: set[str] = set()

    names = st.sampled_from("abcdef")

    @rule(name=names)
    def beat(self, name: str) -> None:
        self.lapses.heard(name, TTL_S, self.now)
        self.heard[name], self.failed[name] = self.now, 0
        self.asked.discard(name)

    @rule(name=names)
    def leave(self, name: str) -> None:
        self.lapses.gone(name)
        self.heard.pop(name, None)
        self.asked.discard(name)

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for action in self.lapses.tick(self.now):
            assert isinstance(action, Probe)
            assert self.now - self.heard[action.instance] >= TTL_S
            self.asked.add(action.instance)

    @rule(answered=st.booleans())
    def answer(self, answered: bool) -> None:
        for name in sorted(self.asked):
            for action in self.lapses.probed(name, answered, self.now):
                if isinstance(action, Evict):
                    assert not answered
                else:
                    assert answered
                    self.heard[name] = self.now
        self.asked.clear()

    @invariant()
    def known(self) -> None:
        assert {name for name in "abcdef" if self.lapses.standing(name)} == set(self.heard)
        lapsed = sum(self.lapses.standing(name) is Standing.LAPSED for name in self.heard)
        assert lapsed or not self.lapses.mass


TestModel = Model.TestCase


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=20))
def test_the_next_tick_is_when_the_first_time_to_live_ends(ttls: list[float]) -> None:
    lapses = Lapses()
    for number, ttl_s in enumerate(ttls):
        lapses.heard(str(number), ttl_s, 0.0)
    assert lapses.due() == min(ttls)

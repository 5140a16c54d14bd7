"""Health by witnesses: a quorum decides, one alone never does, and who complains about everybody is not believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.discovery.eyes import EVIDENCE_S, SETTLE_S, Eyes, Opinion, Sight, Witnesses

NOW = 100.0


def eyes_of(observers: int, instances: int = 10) -> Eyes:
    """All have asked all, and found them well."""
    eyes = Eyes()
    for observer in range(observers):
        for instance in range(instances):
            eyes.saw(f"o{observer}", f"i{instance}", Sight.WELL, NOW - SETTLE_S)
    return eyes


def complain(eyes: Eyes, observers: range, instance: str = "i0", now: float = NOW) -> None:
    for observer in observers:
        eyes.saw(f"o{observer}", instance, Sight.REFUSED, now)


def test_nobody_knows_anything_bad_of_a_stranger() -> None:
    assert Eyes().opinion("i0", NOW) == Opinion(True, 1.0, 0, 0)


def test_a_quorum_decides_and_below_it_the_weight_sinks() -> None:
    eyes = eyes_of(10)
    weights = []
    for observer in range(5):
        weights.append(eyes.opinion("i0", NOW).weight)
        complain(eyes, range(observer, observer + 1))
    assert weights == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert eyes.opinion("i0", NOW) == Opinion(False, 0.0, 5, 10)
    assert eyes.opinion("i1", NOW).healthy


@pytest.mark.parametrize("observers", [2, 3, 10])
def test_one_of_several_never_suffices(observers: int) -> None:
    eyes = eyes_of(observers)
    complain(eyes, range(1))
    assert eyes.opinion("i0", NOW).healthy


def test_a_single_observer_is_all_there_is() -> None:
    eyes = eyes_of(1)
    complain(eyes, range(1))
    assert not eyes.opinion("i0", NOW).healthy


def test_the_first_to_speak_is_not_taken_for_the_only_one() -> None:
    eyes = Eyes()
    for instance in range(10):
        complain(eyes, range(1), f"i{instance}")
    assert all(eyes.opinion(f"i{n}", NOW).healthy for n in range(10))
    assert not eyes.opinion("i0", NOW + SETTLE_S).healthy
    for observer in range(1, 4):
        eyes.saw(f"o{observer}", "i0", Sight.WELL, NOW + 0.5)
    assert eyes.opinion("i0", NOW + SETTLE_S).healthy


def test_two_who_are_believed_suffice_from_the_beginning() -> None:
    eyes = Eyes()
    for observer in range(2):
        for instance in range(5):
            eyes.saw(f"o{observer}", f"i{instance}", Sight.REFUSED if instance == 0 else Sight.WELL, NOW)
    assert [eyes.opinion(f"i{n}", NOW + 0.3).healthy for n in range(5)] == [False, True, True, True, True]


def test_evidence_expires_and_is_taken_back() -> None:
    eyes = eyes_of(4)
    complain(eyes, range(3))
    assert not eyes.opinion("i0", NOW).healthy
    assert eyes.opinion("i0", NOW + EVIDENCE_S + 0.1).healthy
    for observer in range(2):
        eyes.saw(f"o{observer}", "i0", Sight.WELL, NOW + 1)
    assert eyes.opinion("i0", NOW + 1).healthy


def test_who_complains_about_everybody_is_not_believed() -> None:
    eyes = eyes_of(10)
    for instance in range(10):
        complain(eyes, range(6, 10), f"i{instance}")
    assert all(eyes.opinion(f"i{n}", NOW) == Opinion(True, 1.0, 0, 6) for n in range(10))
    complain(eyes, range(3))
    assert not eyes.opinion("i0", NOW).healthy


def test_unless_most_find_the_same() -> None:
    eyes = eyes_of(10)
    for instance in range(5):
        complain(eyes, range(8), f"i{instance}")
    assert [eyes.opinion(f"i{n}", NOW).healthy for n in range(10)] == [False] * 5 + [True] * 5


def test_only_the_latest_observers_count() -> None:
    eyes = eyes_of(40)
    complain(eyes, range(5))
    assert eyes.opinion("i0", NOW) == Opinion(False, 0.0, 5, 10)


def test_what_has_expired_takes_no_room() -> None:
    eyes = eyes_of(10)
    complain(eyes, range(3))
    eyes.forget(NOW + 2 * EVIDENCE_S)
    assert not eyes._eyes
    assert not eyes._by_instance


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(Sight)), max_size=60),
    st.floats(0, 1),
    st.integers(1, 4),
)
def test_opinions_are_sound(sights: list[tuple[int, int, Sight]], share: float, least: int) -> None:
    eyes = Eyes(Witnesses(share, least, 4))
    for n, (observer, instance, sight) in enumerate(sights):
        eyes.saw(str(observer), str(instance), sight, NOW + n / 10)
    for instance in range(6):
        opinion = eyes.opinion(str(instance), NOW + 6)
        assert 0 <= opinion.weight <= 1
        assert opinion.healthy == (opinion.weight > 0)
        assert opinion.complaining <= opinion.asking
        assert opinion.healthy or opinion.complaining >= min(least, len({observer for observer, _, _ in sights}))

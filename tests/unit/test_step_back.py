"""Harm at 100 %, with nothing to compare it with: the step before is taken again, once, and decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core import codec
from gapless.core.model import (
    BUCKETS,
    Objective,
    Pool,
    Rollout,
    RolloutPolicy,
    RolloutState,
    SplitBy,
    Strategy,
    Window,
)
from gapless.rollout.commands import pause
from gapless.rollout.controller import Observed, Outcome, advance
from gapless.rollout.wanted import pool_of, split_of, weight_of

POLICY = RolloutPolicy(by=SplitBy.REQUEST, steps=(2_500, BUCKETS), hold_s=10, min_samples=50, power=0.0, patience_s=300)
AT_100 = Rollout(
    number=3,
    service="orders",
    before="old",
    after="new",
    policy=POLICY,
    instances=4,
    state=RolloutState.SHIFTING,
    step=1,
    target=1,
    started_at=100.0,
    since_at=199.0,
    applied_at=199.0,
    shifted_at=110.0,
)
PER_S = 80

Rates = Callable[[float, int], tuple[float, float]]
"""The moment and the share in buckets, to the error rates of canary and stable."""


def seen(rollout: Rollout, old: int = 4, **more: object) -> Observed:
    base = Observed(
        ready={"old": old, "new": 4},
        running={"old": old, "new": 4},
        pool=Pool(service="orders", sizes={"old": 4, "new": 4}),
    )
    split = split_of(rollout, base)
    return replace(base, split=split, applied=split, **more)  # type: ignore[arg-type]


def window(requests: int, rate: float) -> Window:
    return Window(requests=requests, errors=round(requests * rate), failed=("",) * round(requests * rate))


def look(rollout: Rollout, now_at: float, rates: tuple[float, float], **more: object) -> Outcome:
    mine = PER_S * weight_of(rollout) // BUCKETS
    sides = window(mine, rates[0]), window(PER_S - mine, rates[1])
    return advance(rollout, seen(rollout, **more), *sides, Objective(), now_at)  # type: ignore[arg-type]


def ran(rollout: Rollout, rates: Rates, until_at: float = 900.0) -> list[Rollout]:
    """Second by second, from the store each time."""
    found, now_at = [rollout], 200.0
    while now_at < until_at and not found[-1].winner:
        outcome = look(found[-1], now_at, rates(now_at, weight_of(found[-1])))
        found.append(codec.decode(codec.encode(outcome.rollout), Rollout))
        now_at += 1.0
    return found


def shares(found: list[Rollout]) -> list[int]:
    """Each once, in order."""
    told = [weight_of(rollout) for rollout in found]
    return [share for place, share in enumerate(told) if place == 0 or share != told[place - 1]]


@pytest.mark.parametrize("for_s", [5, 30, 120])
def test_an_incident_that_everybody_has_ends_no_rollout(for_s: int) -> None:
    found = ran(AT_100, lambda at, _: (0.25, 0.25) if 203 <= at < 203 + for_s else (0.0, 0.0))
    assert shares(found) == [BUCKETS, 2_500, BUCKETS]
    assert found[-1].winner == "new"


def test_a_bad_release_is_found_out_at_the_step_before() -> None:
    found = ran(AT_100, lambda at, _: (0.25, 0.0) if at >= 203 else (0.0, 0.0))
    assert shares(found) == [BUCKETS, 2_500]
    assert (found[-1].winner, len(found) < 25) == ("old", True)


def test_one_that_cannot_carry_all_the_users_goes_back_the_second_time() -> None:
    found = ran(AT_100, lambda _, weight: (0.25, 0.25) if weight == BUCKETS else (0.0, 0.0))
    assert shares(found) == [BUCKETS, 2_500, BUCKETS]
    assert found[-1].winner == "old"


def test_it_says_so_and_takes_no_instance_away() -> None:
    outcome = look(AT_100, 200.0, (0.25, 0.0))
    after = outcome.rollout
    assert (after.step, after.target, after.applied_at, after.winner) == (0, 0, 0.0, "")
    assert outcome.split
    assert dict(outcome.split.weights) == {"new": 2_500, "old": 7_500}
    assert pool_of(after, seen(after)).sizes == {"old": 4, "new": 4}, "it is to go on"
    (told,) = outcome.acts
    assert told.what == "rollout 3 of orders: back to 25 % of the users"
    assert "error rate surely above 5.0%" in told.why
    assert told.why.endswith("with all the users there is nothing to compare with, and with 25 % there is")


def test_what_is_on_its_way_back_is_not_counted() -> None:
    """Seconds in which the gateway still obeys the share before: the stable release has no answers there."""
    back = look(AT_100, 200.0, (0.25, 0.0)).rollout
    for now_at in (201.0, 202.0):
        unheard = advance(
            back, replace(seen(back), applied=None), window(PER_S, 0.25), Window(), Objective(), now_at
        ).rollout
        assert (unheard.evidence.broken, unheard.applied_at, unheard.winner) == ((), 0.0, "")
        back = unheard


@pytest.mark.parametrize(
    "rollout",
    [
        replace(AT_100, policy=replace(POLICY, strategy=Strategy.ROLLING)),
        replace(AT_100, policy=replace(POLICY, strategy=Strategy.BLUE_GREEN), step=0, target=0),
        replace(AT_100, policy=replace(POLICY, steps=(BUCKETS,)), step=0, target=0),
        replace(AT_100, stepped_back=True),
        replace(AT_100, train="t"),
        replace(AT_100, winner="new"),
    ],
    ids=["rolling", "blue-green", "one step", "the second time", "train", "promoted by hand"],
)
def test_others_go_back_at_once(rollout: Rollout) -> None:
    assert look(rollout, 200.0, (0.25, 0.0)).rollout.winner == "old"


def test_failed_health_checks_go_back_at_once_also_on_the_way() -> None:
    assert look(AT_100, 200.0, (0.0, 0.0), unhealthy=3).rollout.winner == "old"
    back = look(AT_100, 200.0, (0.25, 0.0)).rollout
    assert look(back, 201.0, (0.25, 0.0), unhealthy=3).rollout.winner == "old"


def test_without_the_old_pool_there_is_nowhere_to_compare() -> None:
    assert look(AT_100, 200.0, (0.25, 0.0), old=1).rollout.winner == "old"


def test_a_paused_one_stays_paused() -> None:
    back = look(pause(AT_100), 200.0, (0.25, 0.0)).rollout
    assert (back.paused, back.stepped_back) == (True, True)
    assert {weight_of(each) for each in ran(back, lambda *_: (0.0, 0.0), 260.0)} == {2_500}


@given(st.lists(st.sampled_from([0.0, 0.02, 0.25, 0.6]), min_size=1, max_size=60), st.booleans())
def test_whatever_happens_it_steps_back_once_at_most_and_equal_harm_is_never_its_fault(
    rates: list[float], canary_alone: bool
) -> None:
    """Equal: of both releases, and only while both can be compared."""

    def rate(at: float, weight: int) -> tuple[float, float]:
        now = rates[int(at - 200) % len(rates)]
        return (now, 0.0 if canary_alone else now)

    found = ran(AT_100, rate, 320.0)
    assert shares(found).count(2_500) <= 1
    turned = [each for each in found if each.stepped_back and weight_of(each) == 2_500]
    if turned and not canary_alone and turned[-1] is found[-2]:
        assert found[-1].winner != "old", "both had the same"

"""What readings of business metrics are evidence of."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core import codec
from gapless.core.model import (
    Better,
    Evidence,
    MetricRule,
    NoEvidence,
    Objective,
    Reading,
    RolloutPolicy,
    SplitBy,
)
from gapless.rollout import metrics
from gapless.rollout.analysis import Decision, Verdict, parts_of_alpha, verdict
from gapless.rollout.tally import Standing

SOLD = MetricRule(name="conversion", metric="paid_total", per="carts_total", better=Better.HIGHER)
LATE = MetricRule(name="refunds", metric="refunds_total", per="paid_total", better=Better.LOWER, tolerance=0.0)
BASKET = MetricRule(name="basket", metric="basket_eur", of="mean", better=Better.HIGHER, tolerance=0.1)
POLICY = RolloutPolicy(by=SplitBy.REQUEST, hold_s=60, min_samples=0, patience_s=600)
HELD = Standing(weight=1_000, held_s=61, waited_s=61, shifted_s=61)


def judged(rule: MetricRule, *readings: Reading, standing: Standing = HELD, **policy: object) -> Verdict:
    evidence = Evidence()
    for at, reading in enumerate(readings):
        evidence = metrics.read(evidence, (rule,), (reading,), 10.0 * at)
        assert codec.decode(codec.encode(evidence), Evidence) == evidence
    asked = replace(POLICY, metrics=(rule,), **policy)  # type: ignore[arg-type]
    return verdict(evidence, asked, Objective(), standing)


def counted(name: str, canary: float, of: float, stable: float, stable_of: float) -> Reading:
    return Reading(name=name, canary=canary, canary_of=of, stable=stable, stable_of=stable_of)


def test_as_good_is_promoted() -> None:
    good = judged(SOLD, counted("conversion", 10, 100, 90, 900))
    assert good.decision is Decision.PROMOTE, good
    assert good.numbers["conversion.canary"] == good.numbers["conversion.stable"] == 0.1
    assert good.numbers["e_limit"] == 400


def test_who_sells_less_goes_back() -> None:
    worse = judged(SOLD, *[counted("conversion", 1, 100, 270, 900)] * 3)
    assert worse.decision is Decision.ROLLBACK
    assert "conversion is worse" in worse.reason
    assert "3 of 300 carts_total against 810 of 2700; higher is better" in worse.reason


def test_what_should_be_seldom_and_comes_more_often_goes_back() -> None:
    assert judged(LATE, *[counted("refunds", 9, 100, 9, 900)] * 3).decision is Decision.ROLLBACK
    assert judged(LATE, *[counted("refunds", 1, 100, 9, 900)] * 3).decision is Decision.PROMOTE


def test_within_the_tolerance_there_is_no_harm() -> None:
    half = replace(SOLD, tolerance=0.5)
    assert judged(half, *[counted("conversion", 15, 100, 270, 900)] * 10).decision is Decision.PROMOTE


def test_too_few_are_no_evidence() -> None:
    few = judged(SOLD, counted("conversion", 1, 10, 90, 900))
    assert (few.decision, few.reason) == (Decision.HOLD, "conversion: 10 of 20 carts_total recorded at this step")


def test_nothing_recorded_is_no_evidence_and_ends_as_the_policy_says() -> None:
    nothing = Reading(name="conversion")
    assert judged(SOLD, nothing).decision is Decision.HOLD
    late = replace(HELD, waited_s=600)
    assert judged(SOLD, nothing, standing=late).decision is Decision.ROLLBACK
    assert judged(SOLD, nothing, standing=late, no_evidence=NoEvidence.PROMOTE).decision is Decision.PROMOTE


def value(canary: float | None, stable: float | None) -> Reading:
    return Reading(name="basket", canary=canary, stable=stable)


@pytest.mark.parametrize(
    ("readings", "expected", "reason"),
    [
        ([value(40, 41)] * 3, Decision.PROMOTE, "no sign of harm"),
        ([value(40, 41)] * 2, Decision.HOLD, "2 of 3 readings"),
        ([value(30, 41)] * 3, Decision.ROLLBACK, "basket was worse at 3 readings in a row: 30 against 41"),
        ([value(40, 41), value(40, 41), value(30, 41)], Decision.HOLD, "basket looks worse"),
        ([value(None, 41)] * 9, Decision.HOLD, "0 of 3 readings"),
        ([value(40, None)] * 9, Decision.HOLD, "0 of 3 readings"),
    ],
)
def test_values(readings: list[Reading], expected: Decision, reason: str) -> None:
    found = judged(BASKET, *readings)
    assert found.decision is expected, found
    assert reason in found.reason


def test_a_step_asks_anew() -> None:
    evidence = metrics.read(Evidence(), (SOLD, BASKET), (counted("conversion", 10, 100, 90, 900), value(40, 41)), 10.0)
    fresh = metrics.new_step(evidence)
    assert [(each.step_of, each.readings) for each in fresh.metrics] == [(0, 0), (0, 0)]
    assert fresh.metrics[0].canary_of == 100


def test_they_are_read_every_ten_seconds_and_after_their_delay() -> None:
    rules = (SOLD, replace(BASKET, after_s=30))
    assert metrics.due(Evidence(), rules, 5, 100) == (SOLD,)
    assert metrics.due(Evidence(), rules, 30, 100) == rules
    assert metrics.due(Evidence(read_at=95), rules, 30, 100) == ()


@given(better=st.sampled_from(Better), seed=st.integers(0, 5))
def test_false_alarms_stay_below_alpha(better: Better, seed: int) -> None:
    """Both releases sell to a tenth; 5 % of the carts are the canary's; 20 hours of readings."""
    dice, alpha, found = random.Random(seed), 0.2, 0
    rule = replace(SOLD, better=better, tolerance=0.0)
    for _ in range(10):
        evidence = Evidence()
        for at in range(60):
            mine = sum(dice.random() < 0.1 for _ in range(5))
            other = sum(dice.random() < 0.1 for _ in range(95))
            evidence = metrics.read(evidence, (rule,), (counted(rule.name, mine, 5, other, 95),), at)
            if metrics.harm(evidence, (rule,), 1 / alpha):
                found += 1
                break
    assert found <= 5  # of 10, when 2 are expected at the most: more has a chance of one in 300


@given(
    rule=st.sampled_from([SOLD, LATE, BASKET]),
    readings=st.lists(
        st.builds(
            Reading,
            name=st.sampled_from(["conversion", "refunds", "basket"]),
            canary=st.none() | st.floats(-1e6, 1e6),
            stable=st.none() | st.floats(-1e6, 1e6),
            canary_of=st.floats(0, 1e6),
            stable_of=st.floats(0, 1e6),
        ),
        max_size=6,
    ),
)
def test_whatever_is_read(rule: MetricRule, readings: list[Reading]) -> None:
    found = judged(rule, *readings)
    assert found.reason
    assert all(value == value for value in found.numbers.values())
    assert parts_of_alpha(replace(POLICY, metrics=(rule,))) == 3 + rule.counted

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.core.model import BUCKETS, Amount, RolloutPolicy, StepRule, Strategy
from gapless.rollout.plan import PlanStep, plan_for, replaced_at_once, steps_for

amounts = st.one_of(
    st.builds(Amount, count=st.integers(0, 8)), st.builds(Amount, share=st.integers(0, 100).map(lambda n: n / 100))
)
policies = st.builds(
    lambda strategy, steps, surge, missing: RolloutPolicy(
        strategy=strategy, steps=(*sorted(steps), BUCKETS), surge=surge, unavailable=missing
    ),
    st.sampled_from(Strategy),
    st.sets(st.integers(1, BUCKETS - 1), max_size=6),
    amounts,
    amounts,
)


@settings(deadline=None)
@given(policy=policies, instances=st.integers(1, 30))
def test_capacity_never_falls_below_what_was_asked_for(policy: RolloutPolicy, instances: int) -> None:
    plan = plan_for(policy, instances)
    rolling = policy.strategy is Strategy.ROLLING
    surge, missing = replaced_at_once(policy, instances) if rolling else (instances, 0)
    least, most = instances - missing, instances + surge
    before = PlanStep(weight=0, new_instances=0, old_instances=plan.old_at_start)
    assert plan.old_at_start >= max(least, 1)
    for step in plan.steps:
        # While the users move, the new instances are there and the old ones still are.
        assert step.new_instances + before.old_instances <= most
        assert step.new_instances + step.old_instances >= least
        assert before.new_instances + before.old_instances >= least
        # Each pool carries its share of the users, before the old one shrinks and after.
        assert step.new_instances * BUCKETS >= step.weight * least
        assert step.old_instances * BUCKETS >= (BUCKETS - step.weight) * least - instances
        assert (step.weight, step.new_instances) > (before.weight, before.new_instances)
        assert step.old_instances >= 1
        before = step
    assert before.weight == BUCKETS
    assert before.new_instances == plan.needed_to_win >= least
    assert before.new_instances == instances or (rolling and not surge)


@pytest.mark.parametrize(
    ("instances", "surge", "missing", "expected"),
    [
        (10, Amount(share=0.25), Amount(share=0.25), (3, 2)),  # up, and down
        (100, Amount(share=0.07), Amount(), (7, 0)),  # whatever floating point makes of it
        (1, Amount(), Amount(count=1), (1, 0)),  # the only one is not taken away
        (3, Amount(), Amount(share=0.1), (1, 0)),  # neither would leave nothing to replace
        (4, Amount(), Amount(count=9), (0, 3)),
    ],
)
def test_surge_and_unavailable_are_rounded_as_kubernetes_does(
    instances: int, surge: Amount, missing: Amount, expected: tuple[int, int]
) -> None:
    policy = RolloutPolicy(strategy=Strategy.ROLLING, surge=surge, unavailable=missing)
    assert replaced_at_once(policy, instances) == expected


def test_blue_green_switches_once_between_whole_pools() -> None:
    steps = steps_for(RolloutPolicy(strategy=Strategy.BLUE_GREEN), 3)
    assert [(s.weight, s.new_instances, s.old_instances) for s in steps] == [(BUCKETS, 3, 3)]


def test_rules_hold_at_their_step_or_at_the_first_one_above() -> None:
    rules = (
        StepRule(weight=500, hold_s=600.0),
        StepRule(weight=2_500, approve=True),
        StepRule(weight=5_000, pause_s=0.0),
    )
    canary = steps_for(RolloutPolicy(steps=(100, 500, 2_500, 5_000, BUCKETS), rules=rules), 4)
    assert [s.hold_s for s in canary] == [None, 600.0, None, None, None]
    assert [s.approve for s in canary] == [False, False, True, False, False]
    assert [s.pause_s for s in canary] == [None, None, None, 0.0, None]
    rolling = steps_for(RolloutPolicy(strategy=Strategy.ROLLING, rules=rules), 3)
    assert [(s.hold_s, s.approve, s.pause_s) for s in rolling] == [
        (600.0, True, None),
        (None, False, 0.0),
        (None, False, None),
    ]


def test_without_surge_the_last_place_is_filled_after_the_end() -> None:
    plan = plan_for(RolloutPolicy(strategy=Strategy.ROLLING, surge=Amount(), unavailable=Amount(count=1)), 3)
    assert plan.old_at_start == 2
    assert [(s.weight, s.new_instances, s.old_instances) for s in plan.steps] == [
        (5_000, 1, 1),
        (6_666, 2, 1),
        (BUCKETS, 2, 1),
    ]


def test_a_canary_keeps_the_old_pool_whole() -> None:
    steps = steps_for(RolloutPolicy(steps=(100, 2_500, 5_100, BUCKETS)), 4)
    assert [(s.weight, s.new_instances, s.old_instances) for s in steps] == [
        (100, 1, 4),
        (2_500, 1, 4),
        (5_100, 3, 4),
        (BUCKETS, 4, 4),
    ]


def test_rolling_replaces_one_instance_at_a_time() -> None:
    steps = steps_for(RolloutPolicy(strategy=Strategy.ROLLING), 3)
    assert [(s.weight, s.new_instances, s.old_instances) for s in steps] == [
        (3_333, 1, 2),
        (6_666, 2, 1),
        (BUCKETS, 3, 1),
    ]


@pytest.mark.parametrize(
    "steps", [(), (100,), (0, BUCKETS), (500, 100, BUCKETS), (100, 100, BUCKETS), (BUCKETS, 20_000)]
)
def test_steps_that_do_not_rise_to_all_users_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="100 %"):
        steps_for(RolloutPolicy(steps=steps), 2)

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.core.model import BUCKETS, RolloutPolicy, Strategy
from gapless.rollout.plan import PlanStep, steps_for

policies = st.builds(
    lambda strategy, steps: RolloutPolicy(strategy=strategy, steps=(*sorted(steps), BUCKETS)),
    st.sampled_from(Strategy),
    st.sets(st.integers(1, BUCKETS - 1), max_size=6),
)


@settings(deadline=None)
@given(policy=policies, instances=st.integers(1, 30))
def test_capacity_never_falls_below_what_was_asked_for(policy: RolloutPolicy, instances: int) -> None:
    steps = steps_for(policy, instances)
    before = PlanStep(weight=0, new_instances=0, old_instances=instances)
    for step in steps:
        # While the users move, the new instances are there and the old ones still are.
        assert step.new_instances + before.old_instances >= instances
        assert step.new_instances + step.old_instances >= instances
        # Each pool carries its share of the users, before the old one shrinks and after.
        assert step.new_instances * BUCKETS >= step.weight * instances
        assert step.old_instances * BUCKETS >= (BUCKETS - step.weight) * instances - instances
        assert (step.weight, step.new_instances) > (before.weight, before.new_instances) or step.weight > before.weight
        before = step
    assert (before.weight, before.new_instances) == (BUCKETS, instances)
    assert before.old_instances >= 1


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

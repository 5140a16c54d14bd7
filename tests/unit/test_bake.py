"""After the promotion: what is watched, what is kept, and what comes of it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.model import Evidence, Objective, Pool, RolloutPolicy, RolloutState, Window
from gapless.rollout.bake import Aftermath, after_promotion, baking, kept
from gapless.rollout.observed import Observed
from tests.unit.test_rollout import AT_100, NEW, OLD

PROMOTED = replace(
    AT_100,
    policy=RolloutPolicy(keep_s=100.0, bake_s=50.0),
    state=RolloutState.PROMOTED,
    winner=NEW,
    ended_at=1_000.0,
    evidence=Evidence(until_at=1_000.0),
)
BOTH = Pool(service="orders", sizes={NEW: 2, OLD: 2})


def later(now_at: float, window: Window | None = None, unhealthy: int = 0, pool: Pool = BOTH) -> Aftermath:
    observed = Observed(pool=pool, unhealthy=unhealthy)
    return after_promotion(PROMOTED, observed, window or Window(), Objective(), now_at)


def test_harm_within_the_bake_is_told_with_its_numbers_once() -> None:
    found = later(1_010, Window(requests=200, errors=100, failed=tuple(f"u{n}" for n in range(100))))
    assert "lately 50.0% of 200 requests" in found.harm
    assert found.outcome.rollout.baked_at == 1_010
    assert found.outcome.acts[0].numbers["canary_errors"] == 100
    again = after_promotion(found.outcome.rollout, Observed(pool=BOTH), Window(), Objective(), 1_011)
    assert (again.harm, again.outcome.acts) == ("", ())


def test_crashes_are_harm() -> None:
    assert "3 health checks or instances" in later(1_010, unhealthy=3).harm
    assert not later(1_010, unhealthy=2).harm


def test_an_idle_service_is_not_written_about() -> None:
    assert later(1_010).outcome.rollout == PROMOTED
    seen = later(1_010, Window(requests=5)).outcome.rollout
    assert seen.evidence.until_at == 1_010


def test_the_end_of_the_bake_is_told_and_the_pool_stays_on() -> None:
    found = later(1_050)
    assert found.outcome.rollout.baked_at == 1_050
    assert not found.harm
    assert found.outcome.pool is None
    assert "no guard rail was crossed" in found.outcome.acts[0].why


def test_what_is_watched_and_kept() -> None:
    assert baking(PROMOTED)
    assert not baking(replace(PROMOTED, state=RolloutState.ROLLED_BACK))
    assert not baking(replace(PROMOTED, policy=RolloutPolicy()))
    assert kept(PROMOTED, BOTH) == 2
    assert kept(replace(PROMOTED, policy=RolloutPolicy()), BOTH) == 0
    assert kept(PROMOTED, None) == 0


@settings(deadline=None)
@given(st.floats(0, 500), st.integers(0, 5), st.integers(1, 9))
def test_the_old_pool_goes_at_its_time_and_nothing_else_changes(after_s: float, old: int, new: int) -> None:
    """`new` may have been scaled since."""
    baked = replace(PROMOTED, baked_at=1_050.0)
    pool = Pool(service="orders", sizes={NEW: new, OLD: old})
    outcome = after_promotion(baked, Observed(pool=pool), Window(), Objective(), 1_000 + after_s).outcome
    gone = after_s >= 100 and old > 0
    assert outcome.pool == (Pool(service="orders", sizes={NEW: new}) if gone else None)
    assert len(outcome.acts) == gone
    assert outcome.rollout == baked

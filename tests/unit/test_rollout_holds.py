"""What people may ask for at a gate, a pause or before the beginning; and what is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gapless.core.errors import InvalidTransition
from gapless.core.model import BUCKETS, Objective, Phase, RolloutPolicy, RolloutState, StepRule, Strategy, Window
from gapless.rollout.calendar import Closed
from gapless.rollout.commands import steer
from gapless.rollout.controller import advance
from gapless.rollout.observed import observe
from gapless.rollout.scene import FREE, Leash
from gapless.rollout.undo import undo
from gapless.rollout.wanted import pool_of, step_split
from tests.unit.test_rollout import AT_5, AT_100, BAD, BEGUN, NEW, OLD, POLICY, instance, seen, step

GATED = replace(AT_5, policy=replace(POLICY, rules=(StepRule(weight=BUCKETS, approve=True),)))
SCHEDULED = replace(BEGUN, state=RolloutState.SCHEDULED, begin_at=500.0)
FINE = (Window(requests=100), Window(requests=900))


def test_who_waits_at_a_gate_is_told_once_and_its_patience_is_not_used_up() -> None:
    observed = seen(new=2, split=step_split(GATED, 500))
    waiting = step(GATED, observed, *FINE)
    assert waiting.rollout.waiting == "approval of 100 % of the users: `gapless rollout orders approve`"
    assert [act.what for act in waiting.acts] == ["rollout 3 of orders: waits"]
    later = step(waiting.rollout, observed, now_at=10_000)
    assert (later.rollout, later.acts) == (waiting.rollout, ())
    approved = steer(waiting.rollout, "approve", "looks good", 10_001, "ann")
    assert steer(approved, "approve", "again", 10_002, "bob") == approved
    moved = step(approved, observed, now_at=10_003)
    assert moved.rollout.step == 1
    assert not moved.rollout.waiting


def test_an_approval_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(InvalidTransition, match=r"needs no approval now .*none of its steps"):
        steer(AT_5, "approve", "", 120)
    with pytest.raises(InvalidTransition, match=r"it needs some before: 100 %"):
        steer(replace(GATED, step=1), "approve", "", 120)


def test_an_instance_that_is_lost_at_a_gate_has_its_time_to_come_back() -> None:
    first = replace(BEGUN, policy=replace(POLICY, rules=(StepRule(weight=500, approve=True),)))
    waiting = step(first, seen(new=1), now_at=106).rollout
    assert waiting.waiting
    lost = step(waiting, seen(new=0), now_at=9_000).rollout
    assert (lost.state, lost.waiting, lost.since_at) == (RolloutState.STARTING, "", 9_000)
    assert step(lost, seen(new=0), now_at=9_100).rollout.refused


def test_a_pause_with_an_end_ends() -> None:
    paused = replace(steer(AT_5, "pause", "", 120), paused_until_at=200.0)
    observed = seen(new=2, split=step_split(AT_5, 500))
    assert step(paused, observed, *FINE, now_at=199).rollout.step == 0
    assert step(paused, observed, *FINE, now_at=200).rollout.step == 1


def test_a_step_may_pause_when_users_have_come() -> None:
    policy = replace(POLICY, rules=(StepRule(weight=500, pause_s=60.0),))
    moved = step(replace(BEGUN, policy=policy), seen(new=1), now_at=106)
    assert (moved.rollout.paused, moved.rollout.paused_until_at) == (True, 166)
    assert moved.acts[0].what.endswith("5 % of the users to 1.1; pauses for 60 s")
    asked = replace(BEGUN, policy=replace(POLICY, rules=(StepRule(weight=500, pause_s=0.0),)))
    told = step(asked, seen(new=1), now_at=106).acts[0].what
    assert told.endswith("pauses until `gapless rollout orders resume`")


def test_a_step_passed_by_hand_needs_no_evidence_and_still_goes_back() -> None:
    skipped = steer(GATED, "skip", "urgent", 120, "ann")
    observed = seen(new=2, split=step_split(GATED, 500))
    moved = step(skipped, observed)
    assert (moved.rollout.step, moved.acts[0].why) == (1, "passed by hand")
    assert [approval.who for approval in moved.rollout.approvals] == ["ann"]
    assert step(skipped, observed, *BAD).rollout.winner == OLD
    last = step(steer(AT_100, "skip", "", 120), seen(split=step_split(AT_100, BUCKETS)))
    assert last.rollout.winner == NEW


def test_the_last_step_holds_as_long_as_it_says() -> None:
    rollout = replace(AT_100, policy=replace(POLICY, rules=(StepRule(weight=BUCKETS, hold_s=300.0),)))
    observed = seen(split=step_split(rollout, BUCKETS))
    assert not step(rollout, observed, *FINE, now_at=400).rollout.winner
    assert step(rollout, observed, *FINE, now_at=411).rollout.winner == NEW


def test_before_its_time_a_rollout_touches_nothing() -> None:
    early = step(SCHEDULED, seen(new=0, sizes={OLD: 2}), now_at=120)
    assert early.rollout.waiting == "it begins at Thu 1970-01-01 00:08 UTC"
    assert (early.split, early.pool) == (None, None)
    begun = step(early.rollout, seen(new=0, sizes={OLD: 2}), now_at=500)
    assert begun.rollout.state is RolloutState.STARTING
    assert begun.rollout.started_at == 500
    now = steer(SCHEDULED, "promote", "hotfix", 130)
    assert step(now, seen(new=0), now_at=131).rollout.state is RolloutState.STARTING
    assert step(steer(SCHEDULED, "abort", "no", 130), seen(new=0), now_at=131).rollout.refused


def test_a_scheduled_one_leaves_a_kept_pool_alone() -> None:
    observed = seen(new=0, sizes={OLD: 2, "0.9": 2})
    assert dict(pool_of(SCHEDULED, observed).sizes) == {OLD: 2, "0.9": 2}


CLOSED = Closed(reason="frozen", until_at=9_000.0)


@pytest.mark.parametrize("held", [{"closed": CLOSED}, {"leash": Leash(held="the others")}])
def test_no_freeze_and_no_train_holds_back_a_way_back(held: dict[str, object]) -> None:
    observed = seen(new=2, split=step_split(AT_5, 500))
    fine = advance(AT_5, observed, *FINE, Objective(), 125, **held)  # type: ignore[arg-type]
    assert fine.rollout.step == 0
    assert fine.rollout.waiting
    back = advance(fine.rollout, observed, *BAD, Objective(), 126, **held)  # type: ignore[arg-type]
    assert back.rollout.winner == OLD
    assert back.split


def test_an_override_goes_on_in_a_freeze() -> None:
    observed = seen(new=2, split=step_split(AT_5, 500))
    moved = advance(replace(AT_5, override="why"), observed, *FINE, Objective(), 125, closed=CLOSED, leash=FREE)
    assert moved.rollout.step == 1


def test_judged_by_health_is_said() -> None:
    from gapless.core.model import JudgedBy

    rollout = replace(AT_5, policy=replace(POLICY, judged_by=JudgedBy.HEALTH, min_samples=0))
    moved = step(rollout, seen(new=2, split=step_split(rollout, 500)))
    assert moved.acts[0].why == "judged by health alone: all instances ready, no crash in 15 s"
    crashed = step(rollout, seen(new=1, split=step_split(rollout, 500), unhealthy=3))
    assert crashed.rollout.winner == OLD


def test_after_the_promotion_crashes_count_without_anything_to_compare_with() -> None:
    promoted = replace(AT_5, state=RolloutState.PROMOTED, winner=NEW, ended_at=200.0)
    crashes = [instance(f"c{n}", NEW, Phase.STOPPED, failed=True, was_ready=True, since_at=199.0 + n) for n in range(3)]
    ailing = instance("u", NEW, Phase.UNREADY, was_ready=True, failures=9)
    got = observe(promoted, [*crashes, ailing], split=None, applied=None, pool=None)
    assert got.unhealthy == 2, "what fails may be something that both need, but a crash is its own"


def test_the_way_back_is_one_movement_without_conditions() -> None:
    promoted = replace(
        AT_100,
        policy=RolloutPolicy(strategy=Strategy.ROLLING, rules=(StepRule(weight=BUCKETS, approve=True),), bake_s=60.0),
        state=RolloutState.PROMOTED,
        winner=NEW,
        ended_at=200.0,
    )
    back = undo(promoted, number=4, instances=3, now_at=210.0, reason="harm", automatic=True)
    assert (back.before, back.after, back.undoes, back.automatic) == (NEW, OLD, 3, True)
    waiting = advance(back, seen(old=0, new=3), Window(), Window(), Objective(), 211, closed=CLOSED)
    assert waiting.pool
    assert waiting.pool.sizes == {NEW: 3, OLD: 3}
    moved = advance(waiting.rollout, seen(old=3, new=3), Window(), Window(), Objective(), 212, closed=CLOSED)
    assert moved.split
    assert moved.split.weights == ((OLD, BUCKETS),)
    assert not moved.rollout.policy.bake_s

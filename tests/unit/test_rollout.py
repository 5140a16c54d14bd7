"""Single moves of the rollout's state machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from gapless.core import codec
from gapless.core.errors import InvalidTransition
from gapless.core.model import (
    BUCKETS,
    Address,
    Evidence,
    Instance,
    Objective,
    Phase,
    Pool,
    Rollout,
    RolloutPolicy,
    RolloutState,
    Split,
    SplitBy,
    Strategy,
    Window,
)
from gapless.rollout.controller import Observed, Outcome, advance, observe, steer
from gapless.rollout.observed import Failure
from gapless.rollout.wanted import end_split, step_split

OLD, NEW = "1.0", "1.1"
POLICY = RolloutPolicy(by=SplitBy.REQUEST, steps=(500, BUCKETS), hold_s=10, min_samples=50, power=0.0, patience_s=600)
FIRST = Split(service="orders", stable=OLD, weights=((OLD, BUCKETS),))
BEGUN = Rollout(
    number=3,
    service="orders",
    before=OLD,
    after=NEW,
    policy=POLICY,
    instances=2,
    started_at=100,
    since_at=100,
)
AT_5 = replace(BEGUN, state=RolloutState.SHIFTING, step=0, since_at=110, applied_at=110, shifted_at=110)
AT_100 = replace(AT_5, step=1, target=1)
BACK = replace(AT_5, state=RolloutState.FINISHING, winner=OLD, reason="bad", decided_at=120, since_at=120, applied_at=0)
WON = replace(
    AT_100, state=RolloutState.FINISHING, winner=NEW, reason="good", decided_at=120, since_at=120, applied_at=0
)
ROLLING = replace(POLICY, strategy=Strategy.ROLLING)


def seen(
    old: int = 2,
    new: int = 2,
    *,
    split: Split | None = None,
    applied: Split | None = None,
    sizes: Mapping[str, int] | None = None,
    **more: object,
) -> Observed:
    base = Observed(
        ready={OLD: old, NEW: new},
        running={OLD: old, NEW: new},
        split=split or FIRST,
        applied=applied or split or FIRST,
        pool=Pool(service="orders", sizes=sizes or {OLD: 2, NEW: 1}),
    )
    return replace(base, **more)  # type: ignore[arg-type]


def step(
    rollout: Rollout,
    observed: Observed,
    canary: Window | None = None,
    stable: Window | None = None,
    now_at: float = 125,
) -> Outcome:
    outcome = advance(rollout, observed, canary or Window(), stable or Window(), Objective(), now_at, start_s=10)
    for act in outcome.acts:
        assert codec.decode(codec.encode(act.numbers), dict[str, float]) == act.numbers
        assert act.numbers["canary_requests"] == outcome.rollout.evidence.canary_requests
    return outcome


def weights(outcome: Outcome) -> dict[str, int]:
    assert outcome.split
    return dict(outcome.split.weights)


def test_first_the_instances_then_the_users() -> None:
    waiting = step(BEGUN, seen(new=0, sizes={OLD: 2}), now_at=105)
    assert waiting.rollout.state is RolloutState.STARTING
    assert (waiting.split, waiting.pool) == (None, Pool(service="orders", sizes={OLD: 2, NEW: 1}))
    moved = step(waiting.rollout, seen(new=1), now_at=106)
    assert moved.rollout.state is RolloutState.SHIFTING
    assert moved.split == Split(
        service="orders", stable=OLD, weights=((NEW, 500), (OLD, 9_500)), by=SplitBy.REQUEST, salt="orders-3"
    )
    assert "5 % of the users to 1.1" in moved.acts[0].what
    assert moved.acts[0].numbers["next_weight"] == 0.05


def test_the_hold_begins_when_the_gateway_has_applied_the_split() -> None:
    moved = step(BEGUN, seen(new=1), now_at=106).rollout
    mine = step_split(moved, 500)
    early = step(moved, seen(new=1, split=mine, applied=FIRST), Window(requests=500), Window(requests=900), 150)
    assert not early.rollout.applied_at
    assert early.rollout.step == 0
    there = step(early.rollout, seen(new=1, split=mine), now_at=151).rollout
    assert (there.applied_at, there.evidence.step_requests) == (151, 0)
    assert there.evidence.canary_requests == 500


def test_a_passed_step_waits_for_the_next_ones_instances_while_users_stay() -> None:
    mine = step_split(AT_5, 500)
    passed = step(AT_5, seen(new=1, split=mine), Window(requests=100), Window(requests=900))
    assert (passed.rollout.step, passed.rollout.target) == (0, 1)
    assert passed.split is None
    assert passed.pool == Pool(service="orders", sizes={OLD: 2, NEW: 2})
    assert "step 1 passed" in passed.acts[0].what
    assert "no sign of harm after 100 requests" in passed.acts[0].why
    shifted = step(passed.rollout, seen(new=2, split=mine), now_at=130)
    assert weights(shifted) == {NEW: BUCKETS, OLD: 0}


def test_with_the_instances_already_there_one_look_does_both() -> None:
    moved = step(AT_5, seen(new=2, split=step_split(AT_5, 500)), Window(requests=100), Window(requests=900))
    assert moved.rollout.step == 1
    assert len(moved.acts) == 1


def test_the_same_answers_are_counted_once() -> None:
    observed = seen(new=1, split=step_split(AT_5, 500))
    once = step(AT_5, observed, Window(requests=10), Window(requests=90)).rollout
    again = step(once, observed, Window(requests=10), Window(requests=90))
    assert again.rollout == once
    earlier = step(once, observed, Window(requests=10), Window(requests=90), now_at=124).rollout
    assert earlier.evidence.canary_requests == 10
    assert earlier.evidence.until_at == 124, "a clock that was set back must not blind the analysis"


def test_an_idle_service_is_not_written_about() -> None:
    quiet = replace(AT_5, evidence=Evidence(until_at=115))
    assert step(quiet, seen(new=1, split=step_split(AT_5, 500))).rollout == quiet


def test_the_baseline_is_gathered_before_any_user_moves() -> None:
    latency = (0,) * 20 + (400,)
    begun = step(BEGUN, seen(new=0), stable=Window(requests=400, latency=latency), now_at=101).rollout
    assert begun.evidence.stable_latency == latency
    assert begun.evidence.stable_requests == 0


@pytest.mark.parametrize(
    ("observed", "now_at", "reason"),
    [
        (
            seen(new=0, failures=(Failure(at=101, reason="exit 1"), Failure(at=104, reason="exit 1", log="boom"))),
            105,
            "2 instances of 1.1 failed before they were ready: exit 1",
        ),
        (seen(new=0, waiting="readyz says 503: db"), 113, "no instance of 1.1 became ready within 10 s: readyz says"),
        (seen(new=1), 131, "1 of 2 instances of 1.1 became ready in time"),
    ],
)
def test_instances_that_do_not_come_refuse_the_release(observed: Observed, now_at: float, reason: str) -> None:
    rollout = replace(BEGUN, policy=replace(POLICY, steps=(BUCKETS,)))
    refused = step(rollout, replace(observed, running={OLD: 2, NEW: 1}), now_at=now_at)
    assert reason in refused.rollout.reason
    assert refused.rollout.refused
    assert refused.split is None
    assert refused.pool == Pool(service="orders", sizes={OLD: 2, NEW: 0})
    assert "no user has met it" in refused.acts[0].what
    over = step(refused.rollout, replace(observed, running={OLD: 2}), now_at=now_at + 1)
    assert over.rollout.state is RolloutState.ROLLED_BACK
    assert over.pool == Pool(service="orders", sizes={OLD: 2})
    assert over.acts[0].what.endswith("refused")


def test_the_log_of_the_failed_instance_is_kept() -> None:
    failures = (Failure(at=101, reason="exit 1"), Failure(at=104, reason="exit 1", log="ImportError: shop"))
    assert step(BEGUN, seen(new=0, failures=failures), now_at=105).rollout.log == "ImportError: shop"


def test_what_no_control_plane_was_there_to_start_is_not_late() -> None:
    assert step(BEGUN, seen(new=0, began_at=200), now_at=205).rollout.state is RolloutState.STARTING


BAD = (Window(requests=20, errors=10), Window(requests=200))


def test_a_rollback_moves_the_users_at_once_and_drains_only_then() -> None:
    mine = step_split(AT_5, 500)
    back = step(AT_5, seen(new=1, split=mine), *BAD)
    assert weights(back) == {OLD: BUCKETS}
    assert back.pool is None
    assert "10 of 20 requests failed against 0 of 200" in back.rollout.reason
    end = end_split(back.rollout)
    waiting = step(back.rollout, seen(new=1, split=end, applied=mine))
    assert (waiting.pool, waiting.acts) == (None, ())
    drained = step(waiting.rollout, seen(new=1, split=end))
    assert drained.pool == Pool(service="orders", sizes={OLD: 2, NEW: 0})
    over = step(drained.rollout, seen(new=0, split=end), now_at=140)
    assert over.rollout.state is RolloutState.ROLLED_BACK
    assert over.acts[0].numbers["decided_after_s"] == 15
    assert over.acts[0].numbers["took_s"] == 40
    assert step(over.rollout, seen(new=0, split=end)) == Outcome(rollout=over.rollout)


def test_an_old_acknowledgement_does_not_pass_for_a_new_one() -> None:
    """The split after a rollback sends users where the one before the rollout did."""
    stale = step(BACK, seen(new=1, split=end_split(BACK), applied=FIRST))
    assert not stale.rollout.applied_at
    assert stale.pool is None


@pytest.mark.parametrize(
    ("observed", "reason"),
    [
        (seen(new=1, unhealthy=3), "3 health checks"),
        (seen(new=0), "no ready instance of 1.1 is left"),
        (seen(new=1, failures=(Failure(at=111, reason="exit 1"),) * 2), "2 instances of 1.1 failed"),
    ],
)
def test_instances_that_fail_later_roll_back(observed: Observed, reason: str) -> None:
    assert reason in step(AT_5, observed).rollout.reason


def test_when_nobody_is_ready_nobody_is_blamed() -> None:
    assert step(AT_5, seen(old=0, new=0)).rollout.state is RolloutState.SHIFTING


def test_users_are_not_sent_to_an_old_pool_that_is_gone() -> None:
    mine = step_split(AT_5, 500)
    assert step(BACK, seen(old=0, new=1, split=mine)).split is None
    assert weights(step(BACK, seen(old=1, new=1, split=mine))) == {OLD: BUCKETS}


def test_rolling_goes_back_as_the_old_instances_return() -> None:
    rolling = replace(AT_100, policy=ROLLING, instances=4, step=3, target=3)
    mine = step_split(rolling, BUCKETS)
    back = step(rolling, seen(old=1, new=4, split=mine, sizes={OLD: 1, NEW: 4}), *BAD)
    assert back.pool == Pool(service="orders", sizes={OLD: 4, NEW: 4})
    assert weights(back) == {NEW: 7_500, OLD: 2_500}
    more = step(back.rollout, seen(old=3, new=4, split=back.split, sizes={OLD: 4, NEW: 4}))
    assert weights(more) == {NEW: 2_500, OLD: 7_500}
    lost = step(more.rollout, seen(old=2, new=4, split=more.split, sizes={OLD: 4, NEW: 4}))
    assert lost.split is None, "an old instance that is lost must not send users forward again"
    assert weights(step(lost.rollout, seen(old=4, new=4, split=more.split))) == {OLD: BUCKETS}
    late = step(lost.rollout, seen(old=2, new=4, split=more.split), now_at=200)
    assert weights(late) == {OLD: BUCKETS}


def test_rolling_takes_an_old_instance_only_after_the_users_have_left_it() -> None:
    rolling = replace(BEGUN, policy=ROLLING, instances=2)
    moved = step(rolling, seen(new=1), now_at=105)
    assert weights(moved) == {NEW: 5_000, OLD: 5_000}
    assert moved.pool is None
    applied = step(moved.rollout, seen(new=1, split=moved.split), now_at=106)
    assert applied.pool == Pool(service="orders", sizes={OLD: 1, NEW: 1})


def test_the_winner_takes_all_before_the_loser_is_drained() -> None:
    everything = step_split(AT_100, BUCKETS)
    sizes = {OLD: 2, NEW: 2}
    won = step(AT_100, seen(split=everything, sizes=sizes), Window(requests=100))
    assert weights(won) == {NEW: BUCKETS}
    assert won.pool is None
    assert "wins" in won.acts[0].what
    drained = step(won.rollout, seen(split=won.split, sizes=sizes))
    assert drained.pool == Pool(service="orders", sizes={NEW: 2, OLD: 0})
    over = step(drained.rollout, seen(old=0, split=won.split))
    assert over.rollout.state is RolloutState.PROMOTED
    assert over.pool == Pool(service="orders", sizes={NEW: 2})


def test_a_winner_that_falls_before_the_loser_is_drained_loses() -> None:
    end = end_split(WON)
    assert step(WON, seen(new=1, split=end)).rollout.winner == NEW
    assert "only 1 of 2" in step(WON, seen(new=1, split=end), now_at=151).rollout.reason
    fallen = step(WON, seen(new=0, split=end))
    assert fallen.rollout.winner == OLD
    assert weights(fallen) == {OLD: BUCKETS}


def test_paused_nothing_moves_forward_and_harm_still_goes_back() -> None:
    assert step(steer(BEGUN, "pause", "", 104), seen(new=2)).rollout.state is RolloutState.STARTING
    paused = steer(AT_5, "pause", "", 120)
    observed = seen(new=2, split=step_split(AT_5, 500))
    held = step(paused, observed, Window(requests=100), Window(requests=900), now_at=9_999)
    assert (held.rollout.step, held.rollout.evidence.canary_requests) == (0, 100)
    assert held.verdict
    assert held.verdict.reason == "paused by hand"
    assert step(paused, observed, *BAD).rollout.winner == OLD
    resumed = steer(held.rollout, "resume", "", 10_000)
    assert step(resumed, observed, now_at=10_001).rollout.step == 1


def test_promoted_by_hand_all_instances_come_first() -> None:
    by_hand = steer(AT_5, "promote", "hotfix", 120)
    mine = step_split(AT_5, 500)
    waiting = step(by_hand, seen(new=1, split=mine))
    assert waiting.pool == Pool(service="orders", sizes={OLD: 2, NEW: 2})
    won = step(waiting.rollout, seen(new=2, split=mine))
    assert weights(won) == {NEW: BUCKETS}
    assert (won.rollout.reason, won.rollout.decided_at) == ("hotfix", 120)
    assert step(by_hand, seen(new=1, split=mine), *BAD).rollout.winner == OLD
    at_once = step(steer(BEGUN, "promote", "hotfix", 101), seen(new=2))
    assert weights(at_once) == {NEW: BUCKETS}
    assert not at_once.rollout.refused
    assert step(steer(BEGUN, "promote", "hotfix", 101), seen(new=0), now_at=140).rollout.refused


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "promote"])
@pytest.mark.parametrize("state", [RolloutState.PROMOTED, RolloutState.ROLLED_BACK])
def test_an_ended_rollout_takes_no_commands(verb: str, state: RolloutState) -> None:
    with pytest.raises(InvalidTransition, match=f"rollout 3 of orders .* it has ended \\({state}\\)"):
        steer(replace(WON, state=state), verb, "", 200)


def test_commands_that_come_too_late_say_so() -> None:
    with pytest.raises(InvalidTransition, match=r"already decided for 1\.0 \(bad\)"):
        steer(BACK, "promote", "", 200)
    with pytest.raises(InvalidTransition, match="gapless rollback orders"):
        steer(replace(WON, applied_at=130), "abort", "", 200)
    with pytest.raises(InvalidTransition, match="'explode'"):
        steer(AT_5, "explode", "", 200)
    assert steer(WON, "abort", "stop", 125).winner == OLD


@pytest.mark.parametrize("verb", ["pause", "abort", "promote"])
def test_a_command_may_be_repeated(verb: str) -> None:
    once = steer(AT_5, verb, "why", 120)
    assert steer(once, verb, "why", 121) == once
    assert steer(AT_5, "resume", "", 120) == AT_5


def instance(name: str, release: str, phase: Phase, **more: object) -> Instance:
    base = Instance(id=name, service="orders", release=release, address=Address(host="127.0.0.1", port=1), phase=phase)
    return replace(base, **more)  # type: ignore[arg-type]


def test_what_is_observed_of_instances() -> None:
    instances = [
        instance("a", OLD, Phase.READY, was_ready=True, failures=2),
        instance("b", OLD, Phase.DRAINING, was_ready=True),
        instance("c", NEW, Phase.STARTING, detail="readyz says 503"),
        instance("d", NEW, Phase.STOPPED, failed=True, since_at=120, detail="exit 1\nTraceback\nImportError"),
        instance("e", NEW, Phase.STOPPED, failed=True, was_ready=True, since_at=130, detail="killed"),
        instance("f", NEW, Phase.UNREADY, was_ready=True, failures=4),
        instance("g", NEW, Phase.STOPPED, was_ready=True, since_at=140),
        replace(instance("x", NEW, Phase.READY), service="payment"),
    ]
    got = observe(AT_5, instances, split=FIRST, applied=None, pool=None, began_at=90)
    assert (dict(got.ready), dict(got.running)) == ({OLD: 1}, {OLD: 2, NEW: 2})
    assert got.failures == (Failure(at=120, reason="exit 1", log="Traceback\nImportError"),)
    assert (got.unhealthy, got.waiting, got.began_at) == (5, "readyz says 503", 90)
    assert observe(AT_5, instances[2:], split=None, applied=None, pool=None).unhealthy == 0

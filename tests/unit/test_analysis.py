"""What the analysis makes of two windows."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core import codec
from gapless.core.model import (
    BUCKETS,
    HISTOGRAM_BOUNDS_S,
    Evidence,
    NoEvidence,
    Objective,
    RolloutPolicy,
    Seen,
    SplitBy,
    Window,
    bucket_of,
)
from gapless.observe import judge
from gapless.rollout import tally
from gapless.rollout.analysis import Decision, Verdict, bake, look
from gapless.rollout.tally import Standing

BY_REQUEST = RolloutPolicy(by=SplitBy.REQUEST, hold_s=60, min_samples=100, power=0.0, patience_s=600)
BY_USER = replace(BY_REQUEST, by=SplitBy.USER)
OBJECTIVE = Objective(max_error_rate=0.05, max_p99_ratio=3.0)
HELD = Standing(weight=1_000, held_s=61, waited_s=61, shifted_s=61)


def took(*groups: tuple[int, float]) -> tuple[int, ...]:
    counts = [0] * (len(HISTOGRAM_BOUNDS_S) + 1)
    for count, seconds in groups:
        counts[bisect_left(HISTOGRAM_BOUNDS_S, seconds)] += count
    return tuple(counts)


def window(requests: int, errors: int = 0, *, user: str = "", slow: int = 0, usual_s: float = 0.02) -> Window:
    return Window(
        requests=requests,
        errors=errors,
        failed=tuple(f"{user}{i}" if user else "" for i in range(errors)),
        latency=took((requests - slow, usual_s), (slow, 1.0)),
    )


def check(
    canary: Window,
    stable: Window,
    expected: Decision,
    reason: str,
    *,
    policy: RolloutPolicy = BY_REQUEST,
    standing: Standing = HELD,
    evidence: Evidence | None = None,
) -> Verdict:
    before = evidence or Evidence(stable_latency=took((1_000, 0.02)))
    _, verdict = look(before, canary, stable, policy, OBJECTIVE, standing)
    assert verdict.decision is expected, verdict
    assert reason in verdict.reason
    return verdict


def test_nothing_seen_is_inconclusive() -> None:
    check(Window(), Window(), Decision.HOLD, "0 of 100 requests seen", evidence=Evidence())


def test_no_harm_after_enough_samples_and_time_promotes() -> None:
    verdict = check(window(100, 1), window(900, 9), Decision.PROMOTE, "no sign of harm after 100 requests")
    assert verdict.numbers["canary_requests"] == 100
    assert verdict.numbers["share"] == pytest.approx(0.1)


def test_time_is_needed_too() -> None:
    early = replace(HELD, held_s=59)
    check(window(100), window(900), Decision.HOLD, "59 of 60 s held", standing=early)


def test_a_paused_rollout_is_not_promoted_but_rolled_back() -> None:
    paused = replace(HELD, paused=True)
    check(window(100), window(900), Decision.HOLD, "paused", standing=paused)
    check(window(100, 30), window(900), Decision.ROLLBACK, "30 of 100", standing=paused)


def test_more_errors_than_the_stable_release_roll_back() -> None:
    verdict = check(window(20, 5), window(180, 1), Decision.ROLLBACK, "5 of 20 requests failed against 1 of 180")
    assert verdict.numbers["e_errors"] >= verdict.numbers["e_limit"] == 300


def test_a_shared_incident_is_not_the_canarys() -> None:
    check(window(100, 50), window(900, 450), Decision.HOLD, "50.0% is above 5.0%")


def looks(count: int, canary: Window, stable: Window, standing: Standing = HELD) -> Evidence:
    evidence = Evidence(stable_latency=took((1_000, 0.02)))
    for _ in range(count):
        evidence, _ = look(evidence, canary, stable, BY_REQUEST, OBJECTIVE, standing)
    return evidence


def test_more_slow_answers_roll_back() -> None:
    before = looks(4, window(10, slow=1), window(90))
    check(window(10, slow=1), window(90), Decision.ROLLBACK, "more slow answers", evidence=before)


def test_one_stall_is_one_event_however_many_answers_waited_for_it() -> None:
    verdict = check(window(100, slow=50), window(900), Decision.PROMOTE, "no sign of harm")
    assert verdict.numbers["e_slow"] < 10


def test_slow_looks_weigh_less_where_the_canary_has_many_of_the_instances() -> None:
    few, many = (looks(5, window(10, slow=1), window(90), replace(HELD, capacity=c)) for c in (0.1, 0.5))
    assert max(few.slow) > max(many.slow) > 0


def test_a_shared_slowness_is_not_the_canarys() -> None:
    check(window(100, slow=10), window(900, slow=90), Decision.PROMOTE, "no sign of harm")


def test_cold_instances_are_not_slow_ones() -> None:
    first = replace(HELD, held_s=2)
    evidence, _ = look(
        Evidence(stable_latency=took((1_000, 0.02))), window(100, slow=50), window(900), BY_REQUEST, OBJECTIVE, first
    )
    assert not evidence.slow
    assert not evidence.canary_latency


def test_a_difference_that_only_the_scheduler_makes_is_no_harm() -> None:
    tiny = Evidence(stable_latency=took((1_000, 0.001)))
    check(window(100, usual_s=0.009), window(900, usual_s=0.001), Decision.PROMOTE, "no sign of harm", evidence=tiny)


def test_failed_health_checks_act_at_once() -> None:
    failing = replace(HELD, unhealthy=3, held_s=1)
    check(Window(), Window(), Decision.ROLLBACK, "3 health checks", standing=failing)


def test_no_evidence_within_the_patience_rolls_back() -> None:
    late = replace(HELD, waited_s=600)
    check(window(10), window(90), Decision.ROLLBACK, "no sufficient evidence within 600 s: 10 of 100", standing=late)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (NoEvidence.HOLD, Decision.HOLD),
        (NoEvidence.PROMOTE, Decision.PROMOTE),
        (NoEvidence.ROLLBACK, Decision.ROLLBACK),
    ],
)
def test_without_evidence_the_policy_says_what_comes_after_the_patience(end: NoEvidence, expected: Decision) -> None:
    policy, late = replace(BY_REQUEST, no_evidence=end), replace(HELD, waited_s=600)
    check(window(10), window(90), expected, f"`no_evidence: {end}`", policy=policy, standing=late)
    check(window(10), window(90), Decision.HOLD, "10 of 100", policy=policy, standing=replace(HELD, waited_s=599))
    check(window(10), window(90), Decision.HOLD, "paused", policy=policy, standing=replace(late, paused=True))


def test_what_looks_worse_is_not_promoted_for_want_of_evidence() -> None:
    policy, late = replace(BY_REQUEST, no_evidence=NoEvidence.PROMOTE), replace(HELD, waited_s=600)
    check(window(40, 4), window(60, 6), Decision.HOLD, "10.0% is above", policy=policy, standing=late)


def test_a_step_is_passed_only_with_the_power_that_is_asked_for() -> None:
    policy = replace(BY_REQUEST, power=0.8, min_samples=10)
    few = check(window(20), window(180), Decision.HOLD, "80% are asked for", policy=policy)
    many = check(window(300), window(2_700), Decision.PROMOTE, "no sign of harm", policy=policy)
    assert few.numbers["power"] < 0.8 <= many.numbers["power"]
    check(window(1), window(9), Decision.PROMOTE, "no sign", policy=replace(policy, min_samples=0))
    alone = replace(HELD, weight=BUCKETS)
    check(window(10), Window(), Decision.PROMOTE, "no comparison", policy=policy, standing=alone)


def test_the_power_of_earlier_steps_is_kept_where_nearly_all_users_have_the_canary() -> None:
    policy, evidence = replace(BY_REQUEST, power=0.8), Evidence()
    evidence, first = look(evidence, window(400), window(3_600), policy, OBJECTIVE, HELD)
    _, last = look(evidence, window(990), window(10), policy, OBJECTIVE, replace(HELD, weight=9_900))
    assert last.numbers["power"] >= first.numbers["power"] - 0.01


def test_the_permitted_error_rate_is_surely_exceeded_without_a_baseline_too() -> None:
    alone = replace(HELD, weight=BUCKETS, held_s=1)
    verdict = check(window(40, 20, user="u"), Window(), Decision.ROLLBACK, "surely above 5.0%", standing=alone)
    assert verdict.numbers["e_broken"] >= verdict.numbers["e_limit"]


def test_a_stable_release_above_the_limit_is_the_measure_at_all_users_too() -> None:
    """What it last had, the canary may have."""
    evidence = Evidence(recent_stable=(2_000, 160))
    check(window(500, 40), Window(), Decision.HOLD, "8.0% is above", standing=ALONE, evidence=evidence)
    check(window(500, 150), Window(), Decision.ROLLBACK, "surely above", standing=ALONE, evidence=evidence)


def test_after_promotion_the_guard_rails_hold_for_the_bake() -> None:
    known = Evidence(stable_latency=took((1_000, 0.02)), errors=(9.0,) * 8)

    def baked(window: Window, baked_s: float, unhealthy: int = 0) -> Verdict:
        return bake(known, window, BY_REQUEST, OBJECTIVE, baked_s=baked_s, bake_s=600, unhealthy=unhealthy)[1]

    assert baked(window(100), 10).decision is Decision.HOLD
    assert baked(Window(), 600).decision is Decision.PROMOTE
    assert "10 of 600 s" in baked(window(100), 10).reason
    assert baked(window(100, 40), 10).decision is Decision.ROLLBACK
    assert "3 health checks" in baked(Window(), 10, unhealthy=3).reason
    evidence = known
    for second in range(20, 26):
        evidence, verdict = bake(evidence, window(50, slow=10), BY_REQUEST, OBJECTIVE, baked_s=second, bake_s=600)
    assert (verdict.decision, "last known p99" in verdict.reason) == (Decision.ROLLBACK, True)


ALONE = replace(HELD, weight=BUCKETS)


def test_at_all_users_the_bake_is_short_and_the_guard_rails_stay() -> None:
    check(window(100), Window(), Decision.PROMOTE, "no comparison at 100 %", standing=replace(ALONE, held_s=31))
    check(window(100), Window(), Decision.HOLD, "29 of 30 s", standing=replace(ALONE, held_s=29))
    check(window(100, 20), Window(), Decision.ROLLBACK, "20.0% of 100 requests", standing=ALONE)
    slow = looks(4, window(50, slow=5), Window(), ALONE)
    check(window(50, slow=5), Window(), Decision.ROLLBACK, "3 x the last known p99", standing=ALONE, evidence=slow)


def test_one_users_broken_account_neither_rolls_back_nor_promotes() -> None:
    broken = Window(requests=200, errors=100, failed=("eve",) * 100)
    verdict = check(broken, window(800), Decision.HOLD, "50.0% is above", policy=BY_USER)
    assert verdict.numbers["users_met"] == 1


def test_many_users_errors_roll_back() -> None:
    verdict = check(window(100, 10, user="u"), window(900), Decision.ROLLBACK, "10 of 100", policy=BY_USER)
    assert verdict.numbers["users_met"] == 10


def test_only_the_first_error_of_a_user_counts() -> None:
    once, _ = look(Evidence(), window(10, 3, user="u"), window(90), BY_USER, OBJECTIVE, HELD)
    again, _ = look(once, window(0, 0), window(90), BY_USER, OBJECTIVE, HELD)
    more, _ = look(again, window(10, 3, user="u"), window(90), BY_USER, OBJECTIVE, HELD)
    assert judge.evidence(more.errors) == pytest.approx(judge.evidence(once.errors))
    assert (more.canary_errors, more.users_met) == (6, 3)


def test_a_user_of_both_releases_counts_for_the_stable_one_and_is_met_all_the_same() -> None:
    evidence, _ = look(Evidence(), window(10, 1, user="u"), window(90, 1, user="u"), BY_USER, OBJECTIVE, HELD)
    assert evidence.errors[0] < 0
    assert evidence.users_met == 1


def test_users_behind_slow_answers_count_once_where_they_are_known() -> None:
    slow = Window(requests=50, latency=took((30, 0.02), (20, 1.0)), tail=(("eve", 1.0),) * 20 + (("bob", 0.02),))
    evidence, _ = look(Evidence(stable_latency=took((1_000, 0.02))), slow, window(450), BY_USER, OBJECTIVE, HELD)
    assert len(evidence.slow_users.hashes) == 1
    assert max(evidence.slow) < 3


@settings(deadline=None)
@given(users=st.integers(1, 4_000), seed=st.integers(0, 99))
def test_what_is_remembered_is_bounded_and_a_fair_sample(users: int, seed: int) -> None:
    seen, counted = tally._first(Seen(), (f"{seed}-{i}" for i in range(users)))
    assert len(seen.hashes) <= tally.USERS_KEPT
    assert all(place < 1 << (32 - seen.level) for place in seen.hashes)
    assert counted >= users - 1 or seen.level  # two users may share a hash
    assert len(seen.hashes) * 2**seen.level == pytest.approx(users, rel=0.35, abs=2)
    assert tally._first(seen, (f"{seed}-{i}" for i in range(users))) == (seen, 0)


windows = st.builds(
    lambda requests, part, slow: window(requests, int(requests * part), user="u", slow=min(slow, requests)),
    st.integers(0, 500),
    st.floats(0, 1),
    st.integers(0, 20),
)


@settings(deadline=None)
@given(
    seen=st.lists(st.tuples(windows, windows), max_size=8),
    policy=st.sampled_from([BY_USER, BY_REQUEST]),
    weight=st.sampled_from([1, 500, 5_000, BUCKETS]),
    paused=st.booleans(),
)
def test_whatever_is_seen(seen: list[tuple[Window, Window]], policy: RolloutPolicy, weight: int, paused: bool) -> None:
    evidence = Evidence()
    for canary, stable in seen:
        standing = replace(HELD, weight=weight, paused=paused)
        evidence, verdict = look(evidence, canary, stable, policy, OBJECTIVE, standing)
        assert verdict.reason
        assert codec.decode(codec.encode(evidence), Evidence) == evidence
        assert codec.decode(codec.encode(verdict.numbers), dict[str, float]) == verdict.numbers
        if verdict.decision is Decision.PROMOTE:
            assert not paused
            assert evidence.step_requests >= policy.min_samples


@settings(deadline=None)
@given(weight=st.integers(1, BUCKETS), canary=st.integers(0, 300), stable=st.integers(0, 300))
def test_the_share_is_never_below_the_weight(weight: int, canary: int, stable: int) -> None:
    share = tally.share_of(Evidence(), Window(requests=canary), Window(requests=stable), weight)
    assert weight / BUCKETS <= share <= 1


def test_at_one_request_a_second_harm_is_still_found() -> None:
    """A look sees one request or none: its own share would say nothing, for ever."""
    dice, evidence, standing = random.Random(5), Evidence(), Standing(weight=1_000, held_s=1)
    for second in range(1, 1_200):
        mine = dice.random() < 0.1
        failed = dice.random() < (0.5 if mine else 0.01)
        one, none = Window(requests=1, errors=int(failed)), Window()
        standing = replace(standing, held_s=second)
        pair = (one, none) if mine else (none, one)
        evidence, verdict = look(evidence, *pair, BY_REQUEST, OBJECTIVE, standing)
        if verdict.decision is Decision.ROLLBACK:
            break
    assert second < 300


def false_rollbacks(policy: RolloutPolicy, runs: int) -> int:
    """Of 60 users four always fail, one of whom sends a third of all requests; both releases are equally good."""
    dice, found = random.Random(2), 0
    for run in range(runs):
        users = [f"{run}-{i}" for i in range(60)]
        mine = {user for user in users if bucket_of(user, f"s-{run}") < 2_000}
        busy, evidence = [users[0]] * 30 + users, Evidence()
        for second in range(5, 65):
            asked = dice.choices(busy, k=20)
            sides = [[u for u in asked if u in mine], [u for u in asked if u not in mine]]
            failed = [tuple(u for u in side if u in users[:4] or dice.random() < 0.01) for side in sides]
            canary, stable = (
                Window(requests=len(s), errors=len(f), failed=f) for s, f in zip(sides, failed, strict=True)
            )
            standing = Standing(weight=2_000, held_s=second, waited_s=second)
            evidence, verdict = look(evidence, canary, stable, policy, OBJECTIVE, standing)
            if verdict.numbers["e_errors"] >= verdict.numbers["e_limit"]:
                found += 1
                break
    return found


def test_sticky_users_with_broken_accounts_are_no_reason_to_go_back() -> None:
    alpha = 0.2
    assert false_rollbacks(replace(BY_USER, alpha=alpha), 25) <= 25 * alpha / 2
    assert false_rollbacks(replace(BY_REQUEST, alpha=alpha), 25) > 25 * alpha / 2

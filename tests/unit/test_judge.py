"""The e-process keeps its promise, and the histograms tell no lies beyond the width of a bucket."""

from __future__ import annotations

import math
import random
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.model import HISTOGRAM_BOUNDS_S
from gapless.observe import judge

shares = st.floats(0.001, 0.999)
few = st.integers(0, 20)
quick = settings(deadline=None)


@quick
@given(share=shares, truth=st.floats(0, 1))
def test_an_event_cannot_be_expected_to_raise_e_when_the_canary_is_as_good(share: float, truth: float) -> None:
    """The supermartingale that Ville's inequality needs, also when the share is taken larger than it is."""
    truth = truth * share
    for mine, other in zip(factors(1, 0, share), factors(0, 1, share), strict=True):
        assert truth * math.exp(mine) + (1 - truth) * math.exp(other) <= 1 + 1e-9


def factors(mine: float, other: float, share: float, ratios: tuple[float, ...] = judge.RATIOS) -> list[float]:
    """What these events multiply each stake with, as logarithms."""
    begun = judge.start()
    after = judge.update(begun, mine, other, share, ratios)
    return [new - old for new, old in zip(after, begun, strict=True)][:-1]


@quick
@given(share=shares, truth=st.floats(0, 1))
def test_nor_where_more_is_better_and_the_share_is_taken_smaller(share: float, truth: float) -> None:
    truth = share + truth * (1 - share)
    both = (factors(1, 0, share, judge.LOWER_RATIOS), factors(0, 1, share, judge.LOWER_RATIOS))
    for mine, other in zip(*both, strict=True):
        assert truth * math.exp(mine) + (1 - truth) * math.exp(other) <= 1 + 1e-9


@quick
@given(rate=shares, truth=st.floats(0, 1))
def test_a_trial_cannot_be_expected_to_raise_e_when_events_are_no_likelier_than_permitted(
    rate: float, truth: float
) -> None:
    truth = truth * rate
    stakes = zip(judge.STAKES, judge.above((), 1, 1, rate), judge.above((), 0, 1, rate), strict=False)
    for stake, event, none in stakes:
        assert truth * math.exp(event) + (1 - truth) * math.exp(none) <= stake * (1 + 1e-9)


@quick
@given(looks=st.integers(0, 10**6), mine=few, other=few, share=shares)
def test_staking_anew_neither_makes_nor_loses_anything(looks: int, mine: int, other: int, share: float) -> None:
    before = judge.update((), mine, other, share)
    after = judge.stake(before, looks)
    assert judge.evidence(after) == pytest.approx(judge.evidence(before))
    assert after[-1] < before[-1]


def test_what_breaks_after_hours_is_found_as_well() -> None:
    logs: tuple[float, ...] = judge.start()
    for look in range(4 * 3_600):  # one error in two seconds, none of them the canary's
        logs = judge.stake(judge.update(logs, 0, look % 2, 0.05), look)
    for late in range(1, 20):
        logs = judge.stake(judge.update(logs, 2, 1, 0.05), 4 * 3_600 + late)
        if judge.evidence(logs) >= 300:
            break
    assert late <= 8


def test_logarithms_that_an_earlier_version_kept_go_on() -> None:
    old = tuple(0.5 * place for place in range(7))
    mean = sum(math.exp(log) for log in old) / 7
    assert judge.evidence(judge.update(old, 0, 0, 0.1)) == pytest.approx(mean)


@quick
@given(share=shares, ratio=st.sampled_from(judge.RATIOS))
def test_the_factors_are_those_of_the_likelihood_ratio(share: float, ratio: float) -> None:
    theta = judge.theta(share, ratio)
    place = judge.RATIOS.index(ratio)
    assert factors(1, 0, share)[place] == pytest.approx(math.log(theta / share))
    assert factors(0, 1, share)[place] == pytest.approx(math.log((1 - theta) / (1 - share)))


@quick
@given(share=shares, a=few, b=few, c=few, d=few)
def test_events_may_be_counted_one_by_one_or_together(share: float, a: int, b: int, c: int, d: int) -> None:
    parts = judge.update(judge.update(judge.start(), a, b, share), c, d, share)
    assert parts == pytest.approx(judge.update((), a + c, b + d, share))


@quick
@given(low=shares, high=shares, mine=few, other=few)
def test_a_larger_share_never_strengthens_the_evidence(low: float, high: float, mine: int, other: int) -> None:
    low, high = sorted((low, high))
    stronger = judge.evidence(judge.update((), mine, other, low))
    assert judge.evidence(judge.update((), mine, other, high)) <= stronger * (1 + 1e-9)


@quick
@given(share=shares, mine=few, other=few)
def test_parts_of_one_event_never_weigh_more_than_it(share: float, mine: int, other: int) -> None:
    """Whatever depends on what in a burst: the geometric mean of its factors is below their arithmetic mean."""
    both = mine + other or 1
    whole = (
        [math.exp(log) for log in factors(1, 0, share)],
        [math.exp(log) for log in factors(0, 1, share)],
    )
    for part, one, none in zip(factors(mine / both, other / both, share), *whole, strict=True):
        assert math.exp(part) <= (mine * one + other * none) / both + 1e-9 or not mine + other


def test_without_events_or_without_anything_to_compare_e_is_one() -> None:
    assert judge.evidence(()) == 1 == pytest.approx(judge.evidence(judge.start()))
    assert judge.update((), 5, 5, 0.0) == judge.update((), 5, 5, 1.0) == judge.update((), 0, 0, 0.5) == judge.start()


def test_e_stays_a_number_however_much_is_seen() -> None:
    assert math.isfinite(judge.evidence(judge.update((), 10**6, 0, 0.01)))
    assert judge.evidence(judge.update((), 0, 10**6, 0.5)) == pytest.approx(1 - judge.STAKED)


def binomial(dice: random.Random, trials: int, rate: float) -> int:
    return sum(dice.random() < rate for _ in range(trials))


def seconds_to_rollback(dice: random.Random, base: float, canary: float, seconds: int, limit: float) -> int:
    """100 requests/s, 5 % of them to the canary, a look each second; 0 = never rolled back."""
    logs = judge.start()
    for second in range(1, seconds + 1):
        mine = 1 + binomial(dice, 8, 0.5)
        logs = judge.update(logs, binomial(dice, mine, canary), binomial(dice, 100 - mine, base), mine / 100)
        if judge.evidence(logs) >= limit:
            return second
    return 0


def test_false_rollbacks_stay_below_alpha_with_a_look_each_second() -> None:
    dice, runs, alpha = random.Random(7), 80, 0.1
    false = sum(seconds_to_rollback(dice, 0.05, 0.05, 100, 1 / alpha) > 0 for _ in range(runs))
    assert false <= alpha * runs


@pytest.mark.parametrize(("canary", "at_most_s"), [(0.10, 20), (0.50, 5)])
def test_harm_is_found_in_the_order_of_the_published_times(canary: float, at_most_s: int) -> None:
    dice = random.Random(11)
    times = sorted(seconds_to_rollback(dice, 0.005, canary, 300, 100) or 300 for _ in range(15))
    assert times[7] <= at_most_s


@quick
@given(trials=st.integers(1, 10_000), part=st.floats(0, 1), z=st.floats(0.1, 5))
def test_the_lower_bound_lies_below_the_rate_and_nears_it(trials: int, part: float, z: float) -> None:
    events = int(trials * part)
    low = judge.wilson_lower(events, trials, z)
    assert 0 <= low <= events / trials + 1e-12
    assert judge.wilson_lower(100 * events, 100 * trials, z) >= low - 1e-12


@quick
@given(trials=st.integers(1, 10_000), part=st.floats(0, 1), z=st.floats(0.1, 5))
def test_the_upper_bound_lies_above_the_rate(trials: int, part: float, z: float) -> None:
    events = int(trials * part)
    assert events / trials - 1e-12 <= judge.wilson_upper(events, trials, z) <= 1
    assert judge.wilson_upper(0, 0, z) == 1


def test_the_lower_bound_is_wilsons() -> None:
    assert judge.wilson_lower(10, 100, 1.96) == pytest.approx(0.0552, abs=1e-4)
    assert judge.wilson_lower(0, 0, 3) == 0


def histogram_of(latencies_s: list[float]) -> tuple[int, ...]:
    counts = [0] * (len(HISTOGRAM_BOUNDS_S) + 1)
    for latency_s in latencies_s:
        counts[bisect_left(HISTOGRAM_BOUNDS_S, latency_s)] += 1
    return tuple(counts)


latencies = st.lists(st.floats(0.00011, 60), min_size=1, max_size=60)


@quick
@given(values=latencies, q=st.floats(0.01, 1))
def test_a_quantile_is_right_to_a_bucket(values: list[float], q: float) -> None:
    exact = sorted(values)[max(math.ceil(q * len(values) - 1e-9), 1) - 1]
    assert exact / 1.2501 <= judge.quantile(histogram_of(values), q) <= exact * 1.2501


@quick
@given(values=latencies, threshold_s=st.floats(0.0001, 60))
def test_only_what_certainly_took_longer_is_above(values: list[float], threshold_s: float) -> None:
    above = judge.count_above(histogram_of(values), threshold_s)
    assert sum(v > threshold_s * 1.2501 for v in values) <= above <= sum(v > threshold_s for v in values)
    assert judge.share_above(histogram_of(values), threshold_s) == above / len(values)


@quick
@given(one=latencies, other=latencies)
def test_merged_histograms_are_those_of_all_values(one: list[float], other: list[float]) -> None:
    assert judge.merge(histogram_of(one), histogram_of(other)) == histogram_of(one + other)
    assert judge.merge((), histogram_of(one)) == histogram_of(one)


@quick
@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=63))
def test_half_a_histogram_has_half_below_every_bound(counts: list[int]) -> None:
    half = judge.halve(counts)
    assert all(sum(half[:i]) == sum(counts[:i]) // 2 for i in range(len(counts) + 1))


def test_an_empty_histogram_has_no_quantile_and_nothing_above() -> None:
    assert judge.quantile((), 0.99) == judge.share_above((), 0.1) == 0
    assert judge.quantile((0,) * 62 + (5,), 0.5) == HISTOGRAM_BOUNDS_S[-1]


@quick
@given(ratio=st.floats(1.5, 50), share=st.floats(0.01, 0.9), power=st.floats(0.5, 0.99))
def test_power_is_the_inverse_of_the_samples_needed(ratio: float, share: float, power: float) -> None:
    needed = judge.samples_needed(0.005, ratio, share, 0.01, power)
    assert judge.power([(needed, share)], 0.005, ratio, 0.01) >= power - 1e-6
    assert needed < 2 or judge.power([(needed - 1, share)], 0.005, ratio, 0.01) <= power + 1e-6


def test_the_power_promised_is_about_the_power_found() -> None:
    dice, seconds = random.Random(3), math.ceil(judge.samples_needed(0.02, 10, 0.05, 0.01, 0.8) / 5)
    found = sum(seconds_to_rollback(dice, 0.02, 0.2, seconds, 100) > 0 for _ in range(60)) / 60
    assert 0.6 <= found <= 0.97


def test_nothing_seen_has_no_power() -> None:
    assert judge.power([], 0.01, 10, 0.01) == judge.power([(0, 0.05)], 0.01, 10, 0.01) == 0

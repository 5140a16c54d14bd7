"""Buckets against plain references, and the defects of others that ours must not have."""

from __future__ import annotations

import math
import sys
import threading
from fractions import Fraction
from itertools import pairwise
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.resilience import rate_local
from gapless.resilience.rate import rate
from gapless.resilience.rate_hot import HotBuckets
from gapless.resilience.rate_local import LeakyBuckets, SlidingWindows, TokenBuckets
from gapless.resilience.rate_quota import quota

STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 400)), max_size=120)
"""Calls: whose, and how many ms after the one before."""


class Paged:
    """Token buckets whose keys lie in pages from the first on: tuples are never near."""

    def __init__(self, quota) -> None:
        self.buckets = TokenBuckets(quota)

    def acquire(self, key, now: float) -> float:
        assert not self.buckets.near
        return self.buckets.acquire((key,), now)


def test_quotas():
    assert quota("100/s").interval_s == 0.01
    assert quota("20/10s").interval_s == 0.5
    assert quota("6000/min", burst=5).burst == 5
    assert quota("0/s").interval_s == math.inf
    for wrong in ("", "100", "/s", "10/fortnight", "-1/s", "1/0s"):
        with pytest.raises(ConfigError):
            quota(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "best"},
        {"queue": 3},
        {"burst": 0.5},
        {"mode": "leaky", "burst": 3},
        {"mode": "leaky", "queue": -1},
        {"mode": "sliding", "shared": "redis://x"},
    ],
)
def test_what_does_not_fit_together_is_refused_with_a_remedy(wrong):
    with pytest.raises(ConfigError) as refused:
        rate("100/s", **wrong)
    assert refused.value.remedy


class Reference:
    """A token bucket as in the textbook, in exact arithmetic."""

    def __init__(self, per_s: int, burst: int) -> None:
        self.per_s, self.burst, self.buckets = per_s, burst, {}

    def acquire(self, key: str, at_ms: int) -> bool:
        tokens, before = self.buckets.get(key, (Fraction(self.burst), 0))
        tokens = min(tokens + Fraction(at_ms - before, 1000) * self.per_s, Fraction(self.burst))
        admitted = tokens >= 1
        self.buckets[key] = (tokens - admitted, at_ms)
        return admitted


@pytest.mark.parametrize("make", [TokenBuckets, Paged, lambda each: HotBuckets(each, 1)])
@given(steps=STEPS, per_s=st.integers(1, 20), burst=st.integers(1, 5))
def test_token_buckets_agree_with_the_textbook(make, steps, per_s, burst):
    ours, reference, at_ms = make(quota(f"{per_s}/s", burst)), Reference(per_s, burst), 0
    for key, pause_ms in steps:
        at_ms += pause_ms
        assert (ours.acquire(key, 1_000.0 + at_ms / 1000) == 0.0) == reference.acquire(key, at_ms)


@pytest.mark.parametrize("make", [TokenBuckets, Paged, SlidingWindows, lambda each: HotBuckets(each, 1)])
@given(steps=STEPS, count=st.integers(1, 9))
def test_retry_after_is_right_to_the_millisecond(make, steps, count):
    ours, now = make(quota(f"{count}/2s")), 5.0
    for key, pause_ms in steps:
        now += pause_ms / 1000
        while wait_s := ours.acquire(key, now):
            if wait_s > 0.001:
                assert ours.acquire(key, now + wait_s - 0.001)
            now += wait_s


@given(steps=STEPS, count=st.integers(1, 9))
def test_sliding_windows_never_hold_more_than_their_count(steps, count):
    ours, at_ms, log = SlidingWindows(quota(f"{count}/2s")), 0, []
    for key, pause_ms in steps:
        at_ms += pause_ms
        recent = [at for each, at in log if each == key and at > at_ms - 2000]
        admitted = ours.acquire(key, at_ms / 1000) == 0.0
        assert admitted == (len(recent) < count)
        if admitted:
            log.append((key, at_ms))


@given(st.lists(st.integers(1, 6), min_size=2, max_size=6))
def test_sliding_windows_keep_the_youngest_calls_when_their_count_changes(counts):
    ours, log = SlidingWindows(quota(f"{counts[0]}/1s")), []
    for step in range(120):
        count, now = counts[step // 20 % len(counts)], step / 16
        ours.retune(quota(f"{count}/1s"))
        admitted = not ours.acquire("a", now)
        assert admitted <= (sum(at > now - 1 for at in log) < count)
        log += [now] * admitted


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=80), st.integers(0, 5))
def test_leaky_turns_are_evenly_spaced_and_never_beyond_queue_or_deadline(steps, queue):
    ours, now, slots = LeakyBuckets(quota("10/s"), queue), 0.0, []
    for pause_ms, cancels in steps:
        now += pause_ms / 1000
        wait_s, refused_s = ours.reserve("a", now, 0.35)
        if refused_s:
            assert len([slot for slot in slots if slot > now]) >= min(queue, 3)
            continue
        assert wait_s <= min(queue * 0.1, 0.35) + 1e-9
        if cancels and wait_s:
            ours.cancel("a", now + wait_s, now)
        else:
            slots.append(now + wait_s)
    ordered = sorted(slots)
    assert all(b - a > 0.1 - 1e-6 for a, b in pairwise(ordered))


def test_a_cancelled_turn_goes_to_the_next_caller():
    ours = LeakyBuckets(quota("10/s"), 5)
    waits = [ours.reserve("a", 0.0, math.inf)[0] for _ in range(4)]
    assert waits == pytest.approx([0.0, 0.1, 0.2, 0.3])
    ours.cancel("a", waits[1], 0.0)
    ours.cancel("a", waits[3], 0.0)
    again = [ours.reserve("a", 0.0, math.inf)[0] for _ in range(3)]
    assert again == pytest.approx([0.1, 0.3, 0.4])


def test_a_rate_of_zero_admits_nothing():
    zero = quota("0/s")
    assert TokenBuckets(zero).acquire("a", 1.0) == math.inf
    assert SlidingWindows(zero).acquire("a", 1.0) == math.inf
    assert LeakyBuckets(zero, 3).reserve("a", 1.0, math.inf) == (0.0, math.inf)


def test_it_admits_no_more_than_it_says_in_four_seconds():
    """hyx admits 902 at 100/s."""
    ours = TokenBuckets(quota("100/s", burst=100))
    assert sum(not ours.acquire("a", tick / 5000) for tick in range(20_000)) <= 100 + 400


@given(
    steps=st.lists(st.tuples(st.sampled_from(["a", "b", "c", ("d",), 5]), st.sampled_from([0, 90, 400, 6000]))),
    per_s=st.integers(1, 20),
    burst=st.integers(1, 5),
)
def test_keys_near_and_in_pages_agree_with_the_textbook_over_generations(steps, per_s, burst):
    with mock.patch.object(rate_local, "NEAR", 2):
        ours, reference, at_ms = TokenBuckets(quota(f"{per_s}/s", burst)), Reference(per_s, burst), 0
        for key, pause_ms in steps:
            at_ms += pause_ms
            assert (ours.acquire(key, 1_000.0 + at_ms / 1000) == 0.0) == reference.acquire(key, at_ms)
            assert len(ours.near) <= 2


def test_only_short_keys_that_need_nobody_s_code_are_near():
    ours = TokenBuckets(quota("10/s"))
    keys = ["a", 1, b"b", "x" * 10_000, ("a",), 1.5, 1 << 100, Fraction(1, 3), None]
    for key in keys:
        ours.acquire(key, 1.0)
    assert list(ours.near) == ["a", 1, b"b"]
    for key in range(3 * rate_local.NEAR):
        ours.acquire(key, 1.0)
    assert len(ours.near) == rate_local.NEAR


@pytest.mark.parametrize("make", [TokenBuckets, Paged])
def test_no_living_key_is_forgotten(make):
    """throttled's default store forgets above 1,024 keys and admits 100,000 instead of 20,000."""
    ours = make(quota("10/min"))
    admitted = sum(not ours.acquire(key, turn * 0.1) for turn in range(20) for key in range(2_000))
    assert admitted == 20_000
    later = sum(not ours.acquire(key, 6.5 + turn * 6) for turn in range(3) for key in range(2_000))
    assert later == 6_000, "across generations each key gets one token in six seconds"
    assert all(ours.acquire(key, 18.6) for key in range(2_000))


def test_keys_that_nobody_uses_vanish():
    ours = TokenBuckets(quota("10/s"))
    for key in range(20_000):
        ours.acquire(key, 1.0)
    assert len(ours) == 20_000
    for now in (10.0, 20.0, 30.0):
        ours.acquire(f"another at {now}", now)
    assert len(ours) <= 3
    assert ours._keys.current.mask == 0, "and so does their memory"


def test_no_acquire_looks_at_more_than_a_page(monkeypatch):
    """grelmicro looks at every key above 1,000 of them: 5.3 ms per call at 20,000."""
    from gapless.resilience import rate_table

    looks = []
    real = rate_table._add
    monkeypatch.setattr(rate_table, "_add", lambda *args: looks.append(1) or real(*args))
    ours, most = TokenBuckets(quota("10/s")), 0
    for key in range(30_000):
        looks.clear()
        ours.acquire(key, 1.0)
        most = max(most, len(looks))
    assert most <= 2 * rate_table.FULL + 2


@pytest.mark.parametrize("make", [TokenBuckets, Paged])
def test_threads_together_get_what_one_would(make):
    ours, admitted = make(quota("1/h", burst=500)), []
    keys = [f"user {number}" for number in range(8)]

    def run() -> None:
        mine = sum(not ours.acquire(keys[turn % 8], 1.0) for turn in range(6_000))
        for other in range(200):
            mine += not ours.acquire((threading.get_ident(), other), 1.0)  # pages split meanwhile
        admitted.append(mine)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    finally:
        sys.setswitchinterval(before)
    assert sum(admitted) == 8 * 500 + 4 * 200


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 2)), max_size=300))
def test_the_table_of_generations_agrees_with_a_dictionary(steps):
    from gapless.resilience.rate_table import Generations

    ours, current, previous = Generations(), {}, {}
    for number, (key, act) in enumerate(steps):
        key_hash = hash((key,))
        if act == 2 and key % 50 == 0:
            ours.rotate()
            current, previous = {}, current
        elif act:
            ours.recall(key_hash)
            ours.current.put(key_hash, float(number + 1))
            previous.pop(key, None)
            current[key] = float(number + 1)
        else:
            if key in previous:
                current[key] = previous.pop(key)
            assert ours.recall(key_hash) == current.get(key, 0.0)


def test_a_large_table_loses_nothing():
    from gapless.resilience.rate_table import Table

    table = Table()
    hashes = [hash((number,)) for number in range(20_000)]
    for number, each in enumerate(hashes):
        table.put(each, float(number + 1))
    assert [table.get(each) for each in hashes] == [float(number + 1) for number in range(20_000)]
    assert table.count == 20_000

"""Hot keys: bounded memory, the busiest found, nobody gets more than the rate."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from itertools import accumulate

import pytest

from gapless.core.errors import ConfigError
from gapless.resilience.rate_hot import MOST_KEYS, HotBuckets, top
from gapless.resilience.rate_quota import quota

KEYS = 100_000


def zipf(calls: int, seed: int, exponent: float = 1.1) -> list[int]:
    weights = list(accumulate((rank + 1) ** -exponent for rank in range(KEYS)))
    return random.Random(seed).choices(range(KEYS), cum_weights=weights, k=calls)


def test_the_top_hundred_of_a_zipf_stream_are_found():
    ours, stream = HotBuckets(quota("100/s"), 1_000), zipf(150_000, seed=5)
    for number, key in enumerate(stream):
        ours.acquire(key, number * 1e-4)
    wanted = {str(key) for key, _ in Counter(stream).most_common(100)}
    assert len(wanted & {name for name, _ in ours.hottest(100)}) >= 98, "all but ties at the edge"
    assert len(wanted & {name for name, _ in ours.hottest(1_000)}) >= 99


def test_memory_is_bounded_whatever_comes():
    tracemalloc.start()
    try:
        ours = HotBuckets(quota("100/s"), MOST_KEYS)
        for number in range(MOST_KEYS + 500):
            ours.acquire(f"{number}" * 50, number * 1e-4)
        assert tracemalloc.get_traced_memory()[0] <= 8_000_000
    finally:
        tracemalloc.stop()
    assert len(ours) == MOST_KEYS


def test_a_flood_of_new_keys_takes_nothing_from_the_others():
    """Cold keys share the sketch: while it is not full, each of them gets its rate."""
    ours, refused = HotBuckets(quota("10/s", burst=2), 50), 0
    for number in range(30_000):
        ours.acquire(f"flood {number}", number * 1e-4)
        if number % 10 == 0:
            refused += ours.acquire(f"member {number // 10 % 1000}", number * 1e-4) > 0
    assert refused <= 30, "members ask once a second, a tenth of their rate"


def test_no_key_gets_more_than_its_rate_while_it_moves_between_sketch_and_top(monkeypatch):
    from gapless.resilience import rate_hot

    monkeypatch.setattr(rate_hot, "AGED_AFTER", 200)
    ours, dice, admitted = HotBuckets(quota("20/s", burst=3), 4), random.Random(3), Counter()
    for number in range(12_000):
        now = number / 1_000
        # Another few keys are busy every second, so that they throw each other out.
        key = dice.randrange(8) + int(now) if dice.random() < 0.8 else dice.randrange(40)
        admitted[key] += ours.acquire(key, now) == 0.0
        assert admitted[key] <= 3 + 20 * now + 1e-6
    assert len(ours) == 4


def test_top_is_checked():
    assert top(5).keys == 5
    for wrong in (0, MOST_KEYS + 1):
        with pytest.raises(ConfigError):
            top(wrong)

"""Our exact window beside the moving window of `limits`, call by call."""

from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gapless.resilience.rate_local import SlidingWindows
from gapless.resilience.rate_quota import quota


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 900)), max_size=80), st.integers(1, 6))
def test_sliding_windows_agree_with_limits(steps, count):
    with mock.patch("limits.storage.memory.threading.Timer"), mock.patch("time.time") as clock:
        clock.return_value = 1_000.0
        theirs, item = MovingWindowRateLimiter(MemoryStorage()), RateLimitItemPerSecond(count, 2)
        ours = SlidingWindows(quota(f"{count}/2s"))
        for number, (key, pause_ms) in enumerate(steps):
            # Never exactly on an edge, where they count a call of two seconds ago as within.
            clock.return_value += (pause_ms + 1 / (number + 3)) / 1000
            assert (ours.acquire(key, clock.return_value) == 0.0) == theirs.hit(item, key)

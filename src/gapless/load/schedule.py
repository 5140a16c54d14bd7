"""When each request is due: pure arithmetic, so that a slow server cannot slow the questions down (open loop)."""

from __future__ import annotations

import math
from collections.abc import Iterator


def count(rate: float, for_s: float) -> float:
    """How many requests are due within `for_s` seconds (infinity when it has no end)."""
    return math.inf if math.isinf(for_s) else math.ceil(round(rate * for_s, 6))


def offsets(rate: float, for_s: float = math.inf) -> Iterator[float]:
    """Due times in seconds after the start: 0, 1/rate, 2/rate … below `for_s`. Nothing adds up, so nothing drifts."""
    number, last = 0, count(rate, for_s)
    while number < last:
        yield number / rate
        number += 1

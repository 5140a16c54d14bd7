"""Pure verdicts over counts: is the canary worse than the stable release in the same seconds?

The e-process. Each bad event (an error, a slow answer) comes from the canary with probability w, the canary's share,
when both releases are equally good. For each risk ratio r the likelihood ratio of "the canary is r times as bad" is
multiplied up: with θ = w·r / (w·r + 1 - w), an event of the canary counts θ/w and one of the stable release
(1 - θ)/(1 - w). E is the mean over all r. By Ville's inequality P(E ever reaches 1/alpha) ≤ alpha for a canary that is
as good, however often one looks. A share taken too large only makes E smaller, so a doubtful one is rounded up.

Source: Lindon, Sanden, Shirikian, "Rapid Regression Detection in Software Deployments through Sequential Testing",
arXiv:2205.14762. Wilson, "Probable inference", JASA 1927, for the bounds of a rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise, zip_longest

from gapless.core.model import HISTOGRAM_BOUNDS_S

RATIOS: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
"""Risk ratios that are bet on at once: from hardly worse to broken. More of them cost little, since E is their mean."""

LARGEST_LOG = 700.0
"""e to this power still is a float."""


def start() -> tuple[float, ...]:
    """The logarithms of the products before any event: E = 1."""
    return (0.0,) * len(RATIOS)


def theta(share: float, ratio: float) -> float:
    """The probability that an event is the canary's when it is `ratio` times as bad."""
    return share * ratio / (share * ratio + 1 - share)


def update(logs: Sequence[float], canary_events: float, stable_events: float, share: float) -> tuple[float, ...]:
    """The logarithms after some more events, while the canary had `share` (0…1) of the requests.

    Events that depend on each other may be counted as parts of one: the product is then a geometric mean, which is not
    above the arithmetic one, so that the bound holds however they depend. `logs` may be empty (nothing seen yet). With
    a share of 0 or 1 there is nothing to compare, and nothing changes.
    """
    logs = tuple(logs) or start()
    if not 0 < share < 1 or not (canary_events or stable_events):
        return logs
    return tuple(
        log + canary_events * math.log(ratio) - (canary_events + stable_events) * math.log1p(share * (ratio - 1))
        for log, ratio in zip(logs, RATIOS, strict=True)
    )


def evidence(logs: Sequence[float]) -> float:
    """E: the mean of the products (1 before any event). Capped where a float ends."""
    if not logs:
        return 1.0
    largest = max(logs)
    total = sum(math.exp(log - largest) for log in logs)
    return math.exp(min(largest + math.log(total / len(logs)), LARGEST_LOG))


def wilson_lower(events: float, trials: float, z: float) -> float:
    """The rate that the true one exceeds with the confidence of `z` standard deviations; 0 without trials."""
    if trials <= 0:
        return 0.0
    rate = min(events / trials, 1.0)
    middle = rate + z * z / (2 * trials)
    width = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max((middle - width) / (1 + z * z / trials), 0.0)


# --- latency histograms: counts per bucket of HISTOGRAM_BOUNDS_S, the last entry above every bound ---


def merge(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Both histograms' counts; a shorter (or empty) one counts as zeros."""
    return tuple(a + b for a, b in zip_longest(one, other, fillvalue=0))


def halve(histogram: Sequence[int]) -> tuple[int, ...]:
    """Half of the answers. What is rounded off is carried to the next bucket, so that every quantile stays in place."""
    sums = [0, *accumulate(histogram)]
    return tuple(high // 2 - low // 2 for low, high in pairwise(sums))


def quantile(histogram: Sequence[int], q: float) -> float:
    """Seconds that a share `q` (0…1) of the answers did not exceed, linear within a bucket; 0 for an empty histogram.

    Right to the width of a bucket, 25 %. Above every bound the last bound is returned.
    """
    rank = q * sum(histogram)
    below = 0
    for index, count in enumerate(histogram):
        if count and below + count >= rank:
            return _within(index, (rank - below) / count)
        below += count
    return 0.0


def _within(bucket: int, part: float) -> float:
    if bucket >= len(HISTOGRAM_BOUNDS_S):
        return HISTOGRAM_BOUNDS_S[-1]
    high = HISTOGRAM_BOUNDS_S[bucket]
    low = HISTOGRAM_BOUNDS_S[bucket - 1] if bucket else high / 2
    return low + max(part, 0.0) * (high - low)


def count_above(histogram: Sequence[int], threshold_s: float) -> int:
    """Answers that certainly took longer: those of the buckets that lie wholly above `threshold_s`."""
    return sum(count for index, count in enumerate(histogram) if index and HISTOGRAM_BOUNDS_S[index - 1] >= threshold_s)


def share_above(histogram: Sequence[int], threshold_s: float) -> float:
    """The share (0…1) of answers that certainly took longer; 0 for an empty histogram."""
    total = sum(histogram)
    return count_above(histogram, threshold_s) / total if total else 0.0


# --- how much must be seen ---


def _gain(share: float, ratio: float) -> tuple[float, float, float]:
    """Of one event, when the canary is `ratio` times as bad: the mean and the standard deviation of what it adds to the
    logarithm of that ratio's product, and the probability that it is the canary's."""
    probability = theta(share, ratio)
    mine, other = math.log(probability / share), math.log((1 - probability) / (1 - share))
    mean = probability * mine + (1 - probability) * other
    return mean, math.sqrt(probability * (1 - probability)) * (mine - other), probability


def _needed_log(alpha: float) -> float:
    """What one product must reach alone for E, the mean of all, to reach 1/alpha."""
    return math.log(len(RATIOS) / alpha)


def samples_needed(base_rate: float, ratio: float, share: float, alpha: float, power: float = 0.8) -> int:
    """Canary requests after which a canary `ratio` (> 1) times as bad as `base_rate` (0…1) has been found out with
    probability `power` (0.5…1), by the normal approximation of the sum of gains.

    `share` (0…1, both excluded) is the canary's; a smaller one needs more time but hardly more canary requests.
    """
    from statistics import NormalDist  # 10 ms that a service which only serves need not pay

    mean, deviation, mine = _gain(share, ratio)
    spread = NormalDist().inv_cdf(power) * deviation
    root = (spread + math.sqrt(spread * spread + 4 * mean * _needed_log(alpha))) / (2 * mean)
    return math.ceil(root * root * mine / min(base_rate * ratio, 1.0))


def power(samples: int, base_rate: float, ratio: float, share: float, alpha: float) -> float:
    """The probability (0…1) that `samples` canary requests have found out a canary `ratio` times as bad: the inverse of
    `samples_needed`."""
    mean, deviation, mine = _gain(share, ratio)
    events = samples * min(base_rate * ratio, 1.0) / mine
    if events <= 0:
        return 0.0
    z = (events * mean - _needed_log(alpha)) / (deviation * math.sqrt(events))
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))

"""Pure verdicts over counts: is the canary worse than the stable release in the same seconds?

The e-process. Each bad event (an error, a slow answer) comes from the canary with probability w, the canary's share,
when both releases are equally good. For each risk ratio r the likelihood ratio of "the canary is r times as bad" is
multiplied up: with θ = w·r / (w·r + 1 - w), an event of the canary counts θ/w and one of the stable release
(1 - θ)/(1 - w). E is their sum, each weighed with its stake. By Ville's inequality P(E ever reaches 1/alpha) ≤ alpha
for a canary that is as good, however often one looks. A share taken too large only makes E smaller, so a doubtful one
is rounded up.

A release may break after hours, and by then the products of those hours are as good as nothing. So a part of the stakes
is held back, and at each look a little of it is staked anew. That is a bet as fair as any other, so the bound holds.

Source: Lindon, Sanden, Shirikian, "Rapid Regression Detection in Software Deployments through Sequential Testing",
arXiv:2205.14762; Herbster, Warmuth, "Tracking the Best Expert", 1998, for stakes that are placed anew; Waudby-Smith,
Ramdas, "Estimating means of bounded random variables by betting", arXiv:2010.09686, for `above`; Wilson, "Probable
inference", JASA 1927, for the bounds of a rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise, zip_longest

from gapless.core.model import HISTOGRAM_BOUNDS_S

RATIOS: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
"""Risk ratios that are bet on at once: from hardly worse to broken. More of them cost little, since E is their mean."""

LOWER_RATIOS: tuple[float, ...] = (0.9, 0.8, 0.67, 0.5, 0.33, 0.2, 0.1)
"""The same for what a worse release does more seldom, such as selling."""
RATES: tuple[float, ...] = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 18.0)
"""How many times a permitted rate is bet on to be exceeded."""

STAKES: tuple[float, ...] = (0.04, 0.06, 0.08, 0.12, 0.2, 0.2, 0.2)
"""What is staked on each of seven bets before the first look, from the mildest to the strongest: a release that is
broken must be found within seconds, one that is hardly worse may take minutes anyway."""
STAKED = math.fsum(STAKES)
"""What is held back finds a release that breaks late."""
STAKES_S = 300.0
"""The rest is staked by the 1/(looks + this): most of it in the first minutes, and never all."""
LARGEST_LOG = 700.0
"""e to this power still is a float."""


def start() -> tuple[float, ...]:
    """The logarithms of the stakes, and of what is held back, before any event: E = 1."""
    return (*(math.log(stake) for stake in STAKES), math.log(1 - STAKED))


def theta(share: float, ratio: float) -> float:
    """The probability that an event is the canary's when it is `ratio` times as bad."""
    return share * ratio / (share * ratio + 1 - share)


def update(
    logs: Sequence[float],
    canary_events: float,
    stable_events: float,
    share: float,
    ratios: Sequence[float] = RATIOS,
) -> tuple[float, ...]:
    """The logarithms after some more events, while the canary had `share` (0…1) of the requests.

    Events that depend on each other may be counted as parts of one: the product is then a geometric mean, which is not
    above the arithmetic one, so that the bound holds however they depend. `logs` may be empty (nothing seen yet). With
    a share of 0 or 1 there is nothing to compare, and nothing changes.
    """
    logs = _opened(logs)
    if not 0 < share < 1 or not (canary_events or stable_events):
        return logs
    stakes = (
        log + canary_events * math.log(ratio) - (canary_events + stable_events) * math.log1p(share * (ratio - 1))
        for log, ratio in zip(logs, ratios, strict=False)
    )
    return (*stakes, logs[-1])


def above(logs: Sequence[float], events: float, trials: float, rate: float) -> tuple[float, ...]:
    """The logarithms of "events are likelier than `rate`" (0…1) after more trials (0 ≤ events ≤ trials): each event
    counts p/rate, each trial without one (1 - p)/(1 - rate), for several p above it."""
    logs = _opened(logs)
    if not 0 < rate < 1 or trials <= 0:
        return logs
    bets = (min(ratio * rate, (1 + rate) / 2) for ratio in RATES)
    stakes = (
        log + events * math.log(bet / rate) + (trials - events) * math.log((1 - bet) / (1 - rate))
        for log, bet in zip(logs, bets, strict=False)
    )
    return (*stakes, logs[-1])


def stake(logs: Sequence[float], looks: int) -> tuple[float, ...]:
    """The same wealth, a little more of it staked, after so many looks (≥ 0)."""
    if not logs:
        return ()
    part = 1 / (looks + STAKES_S)
    more = [logs[-1] + math.log(part * share / STAKED) for share in STAKES]
    return (*(_plus(log, each) for log, each in zip(logs, more, strict=False)), logs[-1] + math.log1p(-part))


def _opened(logs: Sequence[float]) -> tuple[float, ...]:
    """The logarithms as they are kept now: earlier versions held nothing back, and took the mean."""
    if len(logs) == len(STAKES):
        return (*(log - math.log(len(logs)) for log in logs), -LARGEST_LOG)
    return tuple(logs) or start()


def _plus(one: float, other: float) -> float:
    """The logarithm of the sum of what these are the logarithms of."""
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high))


def evidence(logs: Sequence[float]) -> float:
    """E: all that was made of the stakes, and what is held back (1 before any event). Capped where a float ends."""
    if not logs:
        return 1.0
    largest = max(logs)
    total = sum(math.exp(log - largest) for log in logs)
    return math.exp(min(largest + math.log(total), LARGEST_LOG))


def wilson_lower(events: float, trials: float, z: float) -> float:
    """The rate that the true one exceeds with the confidence of `z` standard deviations; 0 without trials."""
    if trials <= 0:
        return 0.0
    rate = min(events / trials, 1.0)
    middle = rate + z * z / (2 * trials)
    width = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max((middle - width) / (1 + z * z / trials), 0.0)


def wilson_upper(events: float, trials: float, z: float) -> float:
    """The rate that the true one stays below with that confidence; 1 without trials."""
    return 1 - wilson_lower(max(trials - events, 0.0), trials, z) if trials > 0 else 1.0


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
    """What one product must reach alone for E, the sum of all stakes, to reach 1/alpha."""
    return math.log(len(RATIOS) / STAKED / alpha)


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


def power(exposed: Iterable[tuple[int, float]], base_rate: float, ratio: float, alpha: float) -> float:
    """The probability (0…1) that a canary `ratio` times as bad as `base_rate` has been found out, by so many requests
    of the canary at each share of all (0…1, both excluded): the inverse of `samples_needed`."""
    mean = variance = 0.0
    for requests, share in exposed:
        gain, deviation, mine = _gain(share, ratio)
        events = requests * min(base_rate * ratio, 1.0) / mine
        mean += events * gain
        variance += events * deviation * deviation
    if not variance:
        return 0.0
    return 0.5 * (1 + math.erf((mean - _needed_log(alpha)) / math.sqrt(2 * variance)))

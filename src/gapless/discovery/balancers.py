"""The rules by which one of several instances is picked. Each is pure: the same view, the same choice.

The default is power of two choices on peak EWMA (Mitzenmacher 2001; Finagle): of two candidates drawn at random, the
one with the lower `latency · (in flight + 1)` is asked. It won our simulation of mixed speeds, stragglers and failures
(`benchmarks/balance.py`). The others are there for those who know that they need them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from gapless.discovery.balance import Rule, View
from gapless.discovery.load import PENALTY_S, cost, due

REMOTE = 3.0
"""An instance in another zone is asked when it would be so many times quicker than one in ours: traffic between zones
costs money and time, but not as much as a queue."""
BOUND = 1.25
"""An instance gets at most so many times its fair share of what is in flight; more keys than that move on (Mirrokni,
Thorup, Zadimoghaddam 2018: 1 + ε bounds the load, and 1/ε² the moves)."""
GOLDEN = (math.sqrt(5) - 1) / 2
LEAST_S = 1e-3
"""Latencies below count as this one: differences there are noise, and 0 would attract everything."""


def random(view: View, among: Sequence[int]) -> int:
    """By weight alone."""
    return _at_share(view, among, view.one)


def round_robin(view: View, among: Sequence[int]) -> int:
    """In turn. With weights, turns are spread as evenly as the golden ratio spreads points on a circle."""
    if not view.weights:
        return among[view.turn % len(among)]
    return _at_share(view, among, view.turn * GOLDEN % 1.0)


def weighted_response_time(view: View, among: Sequence[int]) -> int:
    """At random, each by its speed: twice as quick, twice as often. Errors count as slow answers."""
    loads = [view.loads[index] for index in among]
    return _at_share(
        view, among, view.one, [1.0 / (max(load.latency_s, LEAST_S) + PENALTY_S * load.errors) for load in loads]
    )


def least_request(view: View, among: Sequence[int]) -> int:
    """The one with the fewest requests in flight for its weight; of several, a random one."""
    loads = view.loads
    if view.weights:
        queues = [loads[index].in_flight / view.weights[index] for index in among]
    else:
        queues = [loads[index].in_flight for index in among]
    shortest = min(queues)
    ties = [index for index, queue in zip(among, queues, strict=True) if queue == shortest]
    return ties[int(view.one * len(ties))]


def p2c_peak_ewma(view: View, among: Sequence[int]) -> int:
    """The cheaper of two, drawn from the caller's own zone when it has one there; one from elsewhere if much
    cheaper."""
    if not view.zone:
        return _cheaper(view, among)
    near, far = _by_zone(view, among)
    if not near or not far:
        return _cheaper(view, among)
    here, there = _cheaper(view, near), far[int(view.third * len(far))]
    return there if _probe(view, there) or _cost(view, there) * REMOTE < _cost(view, here) else here


def consistent_hash(view: View, among: Sequence[int]) -> int:
    """Always the same one for a key, while it is there and not overloaded: rendezvous hashing (Thaler, Ravishankar
    1998; weights by the logarithmic method), with bounded loads. One instance more or less moves the keys of one
    instance."""
    from xxhash import xxh64_intdigest as digest

    total = sum([view.loads[index].in_flight for index in among]) + 1
    seed, names = digest(view.key.encode()), view.names
    if not view.weights:
        most = math.ceil(BOUND * total / len(among))
        fit = [index for index in among if view.loads[index].in_flight < most]
        return max(fit, key=lambda index: digest(names[index], seed))
    weights = sum(map(view.weight, among))
    fit = [i for i in among if view.loads[i].in_flight < math.ceil(BOUND * total * view.weight(i) / weights)]
    return max(fit, key=lambda index: -view.weight(index) / math.log((digest(names[index], seed) + 0.5) / 2**64))


def _by_zone(view: View, among: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Those in the caller's zone, and the others."""
    if view.by_zone is not None and len(among) == len(view.loads):
        return view.by_zone
    near = [index for index in among if view.zones[index] == view.zone]
    return near, [index for index in among if view.zones[index] != view.zone]


def _at_share(view: View, among: Sequence[int], point: float, shares: Sequence[float] = ()) -> int:
    """The index at `point` of the line on which each has its share; shares are multiplied by weights."""
    if not shares and not view.weights:
        return among[int(point * len(among))]
    widths = [view.weight(index) for index in among] if view.weights else shares
    if view.weights and shares:
        widths = [width * share for width, share in zip(widths, shares, strict=True)]
    ends = list(accumulate(widths))
    return among[min(bisect_right(ends, point * ends[-1]), len(among) - 1)]


def _cheaper(view: View, among: Sequence[int]) -> int:
    if len(among) == 1:
        return among[0]
    first = int(view.one * len(among))
    second = int(view.other * (len(among) - 1))
    pair = among[first], among[second + (second >= first)]
    for index in pair:
        if _probe(view, index):
            return index  # only real requests can tell that it has recovered
    return min(pair, key=lambda index: _cost(view, index))


def _probe(view: View, index: int) -> bool:
    load = view.loads[index]
    return load.ejected and due(load, view.now)


def _cost(view: View, index: int) -> float:
    return cost(view.loads[index], view.now) / view.weight(index)


BALANCERS: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (p2c_peak_ewma, least_request, weighted_response_time, round_robin, random, consistent_hash)
}
DEFAULT = p2c_peak_ewma.__name__

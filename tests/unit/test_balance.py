"""The pick: properties of each rule, and a seeded simulation of what they achieve together."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.model import Address, Endpoint
from gapless.discovery.balance import (
    FAILURES_TO_EJECT,
    PROBATION_MOST_S,
    Load,
    Outcome,
    begun,
    candidates,
    cost,
    due,
    ended,
    fresh,
    pick,
    probation_s,
)
from gapless.discovery.loads import Loads
from gapless.testing import FakeWorld

NOW = 1000.0
few = settings(deadline=None)
dice = st.floats(0, 1, exclude_max=True)
loads = st.builds(
    Load,
    since=st.floats(0, NOW),
    in_flight=st.integers(0, 50),
    latency_s=st.floats(0, 100),
    errors=st.floats(0, 1),
    at=st.floats(0, NOW),
    failures=st.integers(0, 40),
    refused=st.booleans(),
    tried=st.floats(0, NOW),
)


def healthy(latency_s: float = 0.01, **changes: object) -> Load:
    return replace(Load(since=0.0, at=NOW, latency_s=latency_s, tried=NOW), **changes)  # type: ignore[arg-type]


@few
@given(st.lists(loads, min_size=1, max_size=8), dice, dice)
def test_it_always_picks_a_candidate(some: list[Load], one: float, other: float) -> None:
    assert pick(some, NOW, one, other) in candidates(some, NOW)


@few
@given(st.lists(loads, min_size=1, max_size=8))
def test_somebody_is_always_a_candidate(some: list[Load]) -> None:
    assert candidates(some, NOW)


@few
@given(loads, st.sampled_from(Outcome), st.floats(0, 100), st.floats(0, 100))
def test_what_is_kept_stays_in_bounds(load: Load, outcome: Outcome, took_s: float, later: float) -> None:
    after = ended(begun(load, NOW), NOW + later, took_s, outcome)
    assert 0 <= after.errors <= 1
    assert after.in_flight == load.in_flight
    assert math.isfinite(cost(after, NOW + later))
    assert cost(after, NOW + later) > 0
    assert probation_s(after) <= PROBATION_MOST_S


@few
@given(loads, st.integers(0, 20))
def test_a_longer_queue_never_costs_less(load: Load, more: int) -> None:
    busy = replace(load, in_flight=max(load.in_flight, 1))
    assert cost(replace(busy, in_flight=busy.in_flight + more), NOW) >= cost(busy, NOW)


@few
@given(st.floats(0.001, 10), st.floats(0.001, 10))
def test_a_peak_counts_at_once(before: float, peak: float) -> None:
    after = ended(begun(healthy(before), NOW), NOW, peak, Outcome.ANSWERED)
    assert after.latency_s >= peak


def test_refused_and_reset_eject_at_once_an_error_does_not() -> None:
    for outcome, ejected in ((Outcome.REFUSED, True), (Outcome.RESET, True), (Outcome.FAILED, False)):
        assert ended(begun(healthy(), NOW), NOW, 0.01, outcome).ejected is ejected
    load = healthy()
    for _ in range(FAILURES_TO_EJECT):
        load = ended(begun(load, NOW), NOW, 0.01, Outcome.FAILED)
    assert load.ejected
    assert not ended(load, NOW, 0.01, Outcome.ANSWERED).ejected
    assert ended(load, NOW, 0.01, Outcome.ABANDONED).ejected


def test_an_ejected_one_is_left_out_until_its_probe_is_due_and_then_preferred() -> None:
    dead = healthy(failures=FAILURES_TO_EJECT, refused=True, tried=NOW)
    some = [healthy(), healthy(), dead]
    assert candidates(some, NOW + 0.2) == [0, 1]
    assert candidates(some, NOW + 0.25) == [0, 1, 2]
    assert pick(some, NOW + 0.25, 0.9, 0.0) == 2
    assert not due(begun(dead, NOW + 0.25), NOW + 99), "one probe at a time"


def test_each_failed_probe_is_followed_by_a_longer_wait() -> None:
    waits = [probation_s(healthy(failures=FAILURES_TO_EJECT + n)) for n in range(8)]
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 10, 10]


def test_panic_keeps_all_but_the_unreachable() -> None:
    failing = healthy(failures=5, tried=NOW)
    gone = healthy(failures=5, refused=True, tried=NOW)
    assert candidates([failing, failing, failing, healthy()], NOW) == [0, 1, 2, 3]
    assert candidates([gone, gone, gone, healthy()], NOW) == [3]
    assert candidates([gone, gone], NOW) == [0, 1]


def test_a_new_instance_starts_slowly() -> None:
    new = healthy(since=NOW)
    assert cost(new, NOW) == pytest.approx(10 * cost(healthy(), NOW))
    assert cost(replace(new, at=NOW + 10), NOW + 10) == pytest.approx(cost(healthy(), NOW))


def test_nobody_to_pick_from() -> None:
    with pytest.raises(ValueError, match="nobody"):
        pick([], NOW, 0, 0)


def places(*ports: int, draining: bool = False) -> list[Endpoint]:
    return [
        Endpoint(instance=str(port), release="1", address=Address(host="h", port=port), draining=draining)
        for port in ports
    ]


def test_draining_and_tried_ones_come_last() -> None:
    world = FakeWorld()
    known = Loads(world)
    fresh_ones, draining = places(1), places(2, draining=True)
    first = known.choose(fresh_ones + draining, ())
    assert first is not None
    assert first.address.port == 1
    second = known.choose(fresh_ones + draining, {first.address})
    assert second is not None
    assert second.address.port == 2
    assert known.choose(fresh_ones + draining, {first.address, second.address}) is None


def test_forgotten_are_only_those_that_nobody_waits_for() -> None:
    known = Loads(FakeWorld())
    (one,) = places(1)
    known.choose([one], ())
    known.forget_but(())
    assert known.of(one.address) is not None
    known.ended(one.address, 0.1, Outcome.ANSWERED)
    known.forget_but(())
    assert known.of(one.address) is None


# The simulation: callers with what they have seen, servers with a queue each, one clock.


@dataclass
class Server:
    """`slots` requests at a time; the rest wait. `speed` is the mean service time."""

    speed: float
    slots: int = 4
    fails: float = 0.0
    busy: int = 0
    queue: list[tuple[float, int]] = field(default_factory=list)


Choice = Callable[[list[Load], float, random.Random], int]


def p2c(known: list[Load], now: float, die: random.Random) -> int:
    return pick(known, now, die.random(), die.random())


def least(known: list[Load], now: float, die: random.Random) -> int:
    return min(range(len(known)), key=lambda i: (known[i].in_flight, die.random()))


def simulate(
    servers: list[Server], rate: float, seconds: float, seed: int, choose: Choice = p2c
) -> tuple[float, float]:
    """p99 in seconds, and the share of failed requests, of 2 callers together, the first tenth not counted."""
    die = random.Random(seed)
    known = [[fresh(-100.0) for _ in servers] for _ in range(2)]
    took: list[float] = []
    failed = 0
    events: list[tuple[float, int, str, tuple[int, int, float]]] = [(die.expovariate(rate), 0, "arrive", (0, 0, 0.0))]
    number = 0

    def begin(now: float, server: int, caller: int, since: float) -> None:
        nonlocal number
        machine = servers[server]
        machine.busy += 1
        bad = die.random() < machine.fails
        number += 1
        length = 0.001 if bad else die.expovariate(1 / machine.speed)
        heapq.heappush(events, (now + length, number, "bad" if bad else "good", (server, caller, since)))

    while events:
        now, _, kind, (server, caller, since) = heapq.heappop(events)
        if kind == "arrive":
            number += 1
            if now < seconds:
                heapq.heappush(events, (now + die.expovariate(rate), number, "arrive", (0, 0, 0.0)))
            caller = die.randrange(len(known))
            server = choose(known[caller], now, die)
            known[caller][server] = begun(known[caller][server], now)
            if servers[server].busy < servers[server].slots:
                begin(now, server, caller, now)
            else:
                servers[server].queue.append((now, caller))
            continue
        servers[server].busy -= 1
        outcome = Outcome.FAILED if kind == "bad" else Outcome.ANSWERED
        known[caller][server] = ended(known[caller][server], now, now - since, outcome)
        if now > seconds / 10:
            took.append(now - since)
            failed += kind == "bad"
        if servers[server].queue:
            arrived, waiting = servers[server].queue.pop(0)
            begin(now, server, waiting, arrived)
    took.sort()
    return took[int(len(took) * 0.99)], failed / len(took)


def fleet(n: int, **odd: float) -> list[Server]:
    return [Server(0.02), *(Server(0.02) for _ in range(n - 2)), Server(**{"speed": 0.02, **odd})]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(2))
def test_mixed_speeds_are_used_by_their_speed(seed: int) -> None:
    mixed = [0.01, 0.01, 0.02, 0.02, 0.05]
    capacity = sum(4 / speed for speed in mixed)
    ours, _ = simulate([Server(speed) for speed in mixed], 0.7 * capacity, 4, seed)
    theirs, _ = simulate([Server(speed) for speed in mixed], 0.7 * capacity, 4, seed, least)
    assert ours <= 1.5 * theirs


@pytest.mark.parametrize("seed", range(2))
def test_a_fast_failing_instance_is_no_black_hole(seed: int) -> None:
    _, errors = simulate(fleet(6, fails=1.0), 400, 10, seed)
    assert errors < 0.01


def test_by_its_queue_alone_it_would_be_one() -> None:
    _, errors = simulate(fleet(6, fails=1.0), 400, 2, 0, least)
    assert errors > 0.1


def test_errors_everywhere_do_not_cost_capacity() -> None:
    servers = [Server(0.02, fails=0.05) for _ in range(3)]
    p99, errors = simulate(servers, 0.7 * 3 * 4 / 0.02, 8, 1)
    assert p99 < 0.5
    assert errors == pytest.approx(0.05, abs=0.02)

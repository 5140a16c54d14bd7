"""The pick: properties of each rule, and a seeded simulation of what they achieve together."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gapless.core.model import Address, Endpoint
from gapless.discovery.balance import View, candidates, choose, standing_of
from gapless.discovery.balancers import BALANCERS, least_request, p2c_peak_ewma
from gapless.discovery.load import (
    FAILURES_TO_EJECT,
    PROBATION_MOST_S,
    TAU_S,
    Load,
    Outcome,
    begun,
    cost,
    due,
    ended,
    fresh,
    probation_s,
)
from gapless.discovery.loads import Bench, Loads
from gapless.testing import FakeWorld
from gapless.testing.queueing import Server, simulate

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


def pick(some: list[Load], now: float, one: float, other: float) -> int:
    return choose(View(loads=some, now=now, one=one, other=other), p2c_peak_ewma)


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


@few
@given(st.lists(loads, min_size=1, max_size=8), dice, dice, dice)
def test_probes_are_those_that_are_due(some: list[Load], one: float, other: float, third: float) -> None:
    among, probes = standing_of(some, NOW)
    assert list(among) == list(candidates(some, NOW))
    assert set(probes) <= set(among)
    assert all(some[index].ejected and due(some[index], NOW) for index in probes)
    assert choose(View(loads=some, now=NOW, one=one, other=other, third=third), p2c_peak_ewma) in among


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_among_a_thousand_one_that_has_recovered_is_found_within_tau_by_a_few_requests(name: str) -> None:
    world = FakeWorld(7)
    known, some = Loads(world, name), tuple(places(*range(1000)))
    known.ended(some[500].address, 0.001, Outcome.REFUSED)
    for number in range(20 * int(TAU_S)):
        world.stall(0.05)
        chosen = known.choose(some, (), str(number))
        assert chosen is not None
        known.ended(chosen.address, 0.01, Outcome.ANSWERED)
        if chosen is some[500]:
            return
    pytest.fail("nobody has asked it")


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


@few
@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(Outcome), st.floats(0, 3)), max_size=40),
)
def test_whom_a_caller_may_ask_is_kept_up_to_date(n: int, events: list[tuple[int, Outcome, float]]) -> None:
    """As if each pick looked at all of them."""
    loads = [fresh(0.0)] * n
    bench, now = Bench(places(*range(n)), loads, ""), 0.0
    for place, outcome, later in events:
        now += later
        index = place % n
        loads[index] = ended(begun(loads[index], now), now, 0.01, outcome)
        bench.put(bench.endpoints[index].address, loads[index])
        for at in (now, now + 0.25, now + 9):
            (among, probes), (all_among, all_probes) = bench.standing(at), standing_of(loads, at)
            assert (list(among), list(probes)) == (list(all_among), list(all_probes))


def test_a_listing_that_takes_the_place_of_another_is_looked_at_anew() -> None:
    known = Loads(FakeWorld())
    for port in range(200):  # as many short-lived tuples, some of them at the same place in memory
        chosen = known.choose(tuple(places(port)), ())
        assert chosen is not None
        assert chosen.address.port == port


# What the rules achieve together, simulated.


def fleet(n: int, fails: float) -> list[Server]:
    return [Server(0.02, fails=fails if i == n - 1 else 0.0) for i in range(n)]


@pytest.mark.parametrize("seed", range(2))
def test_mixed_speeds_are_used_by_their_speed(seed: int) -> None:
    mixed = (0.01, 0.01, 0.02, 0.02, 0.05)
    ours, theirs = (
        simulate([Server(mean_s) for mean_s in mixed], load=0.7, seconds=4, dice=FakeWorld(seed).random, rule=rule)
        for rule in (p2c_peak_ewma, least_request)
    )
    assert ours.p99_s <= 1.5 * theirs.p99_s


@pytest.mark.parametrize("seed", range(2))
def test_a_fast_failing_instance_is_no_black_hole(seed: int) -> None:
    assert simulate(fleet(6, 1.0), load=0.33, seconds=10, dice=FakeWorld(seed).random).errors < 0.01


def test_errors_everywhere_do_not_cost_capacity() -> None:
    done = simulate([Server(0.02, fails=0.05) for _ in range(3)], load=0.7, seconds=8, dice=FakeWorld(1).random)
    assert done.p99_s < 0.5
    assert done.errors == pytest.approx(0.05, abs=0.02)

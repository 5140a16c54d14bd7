"""Each rule picks as its name says, whatever the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gapless.core.errors import UnknownName
from gapless.core.model import Address, Endpoint
from gapless.discovery.balance import View, choose
from gapless.discovery.balancers import BALANCERS, BOUND, p2c_peak_ewma
from gapless.discovery.load import FAILURES_TO_EJECT, Load
from gapless.discovery.loads import Loads, rule
from gapless.testing import FakeWorld

NOW = 1000.0
GRID = 1000
names = st.sampled_from(sorted(BALANCERS))
dice = st.floats(0, 1, exclude_max=True)


def seen(in_flight: int = 0, latency_s: float = 0.01, **changes: object) -> Load:
    load = Load(since=0.0, at=NOW, latency_s=latency_s, tried=NOW, in_flight=in_flight)
    return replace(load, **changes)  # type: ignore[arg-type]


def view(*loads: Load, **more: object) -> View:
    return View(loads=loads, now=NOW, names=[b"i%d" % n for n in range(len(loads))], **more)  # type: ignore[arg-type]


def spread(name: str, seen_: Sequence[Load], **more: object) -> list[float]:
    """The share of each, over evenly spaced dice and turns."""
    picks = Counter(
        choose(view(*seen_, one=n / GRID, other=n * 7 % GRID / GRID, turn=n, **more), BALANCERS[name])
        for n in range(GRID)
    )
    return [picks[i] / GRID for i in range(len(seen_))]


@given(names, st.data(), dice, dice, dice, st.integers(0, 10_000), st.text(max_size=5))
def test_every_rule_picks_one_that_may_be_asked(
    name: str, data: st.DataObject, one: float, other: float, third: float, turn: int, key: str
) -> None:
    loads = st.builds(seen, st.integers(0, 9), st.floats(0, 5), failures=st.sampled_from([0, 0, FAILURES_TO_EJECT]))
    some = data.draw(st.lists(loads, min_size=1, max_size=6))
    weights = data.draw(st.sampled_from([(), [data.draw(st.floats(0.1, 10)) for _ in some]]))
    zones = [data.draw(st.sampled_from("ab")) for _ in some]
    drawn = view(*some, one=one, other=other, third=third, turn=turn, key=key, weights=weights, zones=zones, zone="a")
    chosen = choose(drawn, BALANCERS[name])
    healthy = [i for i, load in enumerate(some) if not load.ejected]
    assert chosen in (healthy if len(healthy) * 2 >= len(some) else range(len(some)))


@pytest.mark.parametrize("name", ["random", "round_robin"])
def test_by_weight(name: str) -> None:
    assert spread(name, [seen()] * 4) == pytest.approx([0.25] * 4, abs=0.01)
    assert spread(name, [seen()] * 3, weights=[1.0, 2.0, 5.0]) == pytest.approx([0.125, 0.25, 0.625], abs=0.01)


def test_in_turn() -> None:
    picks = [choose(view(*[seen()] * 3, turn=turn), BALANCERS["round_robin"]) for turn in range(6)]
    assert picks == [0, 1, 2, 0, 1, 2]


def test_twice_as_quick_twice_as_often_and_errors_are_slow() -> None:
    assert spread("weighted_response_time", [seen(latency_s=0.01), seen(latency_s=0.02)]) == pytest.approx(
        [2 / 3, 1 / 3], abs=0.01
    )
    assert spread("weighted_response_time", [seen(), seen(latency_s=0.001, errors=1.0)])[1] < 0.02


def test_the_shortest_queue_for_its_weight() -> None:
    assert spread("least_request", [seen(3), seen(1), seen(1)]) == pytest.approx([0, 0.5, 0.5], abs=0.01)
    assert spread("least_request", [seen(2), seen(3)], weights=[1.0, 2.0]) == [0, 1]


def test_of_two_the_cheaper_by_its_weight() -> None:
    pair = [seen(latency_s=0.02), seen(latency_s=0.01)]
    assert spread("p2c_peak_ewma", pair) == [0, 1]
    assert spread("p2c_peak_ewma", pair, weights=[4.0, 1.0]) == [1, 0]


def test_ones_own_zone_unless_another_is_much_quicker() -> None:
    zones = {"zones": ["a", "a", "b"], "zone": "a"}
    assert spread("p2c_peak_ewma", [seen()] * 3, **zones)[2] == 0
    assert spread("p2c_peak_ewma", [seen(5), seen(5), seen()], **zones)[2] == 1
    assert spread("p2c_peak_ewma", [seen(failures=3), seen(failures=3), seen(), seen()], zones=list("aabb"), zone="a")[
        :2
    ] == [0, 0]
    assert spread("p2c_peak_ewma", [seen()] * 3, zones=["b"] * 3, zone="a") == pytest.approx([1 / 3] * 3, abs=0.2)


def owners(names_: list[str], weights: Sequence[float] = ()) -> dict[str, str]:
    loads, hashed = [seen()] * len(names_), [name.encode() for name in names_]

    def owner(key: str) -> str:
        drawn = View(loads=loads, now=NOW, names=hashed, weights=weights, key=key)
        return names_[choose(drawn, BALANCERS["consistent_hash"])]

    return {key: owner(key) for key in map(str, range(2000))}


@pytest.mark.parametrize("n", [3, 10])
def test_one_more_moves_only_its_share_of_the_keys_and_only_to_it(n: int) -> None:
    before = owners([f"i{k}" for k in range(n)])
    after = owners([f"i{k}" for k in range(n + 1)])
    moved = {after[key] for key in before if before[key] != after[key]}
    assert moved == {f"i{n}"}
    assert sum(before[key] != after[key] for key in before) <= 1.3 / (n + 1) * len(before)


def test_keys_are_spread_by_weight() -> None:
    counted = Counter(owners(["a", "b", "c"], [1.0, 1.0, 2.0]).values())
    assert [counted[name] / 2000 for name in "abc"] == pytest.approx([0.25, 0.25, 0.5], abs=0.04)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.text(max_size=3))
def test_no_key_overloads_an_instance(queues: list[int], key: str) -> None:
    chosen = choose(view(*map(seen, queues), key=key), BALANCERS["consistent_hash"])
    assert queues[chosen] < BOUND * (sum(queues) + 1) / len(queues) + 1


def test_a_busy_key_overflows_to_the_same_second_choice() -> None:
    first = choose(view(*[seen()] * 5, key="hot"), BALANCERS["consistent_hash"])
    busy = [seen(20 if i == first else 0) for i in range(5)]
    assert len({choose(view(*busy, key="hot", turn=n), BALANCERS["consistent_hash"]) for n in range(9)} - {first}) == 1


def test_an_unknown_balancer_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UnknownName, match="fastest"):
        rule("fastest")
    assert rule("p2c_peak_ewma") is p2c_peak_ewma


def test_a_callers_choice_takes_zone_weight_and_key_from_the_endpoints() -> None:
    def endpoint(name: str, zone: str) -> Endpoint:
        return Endpoint(instance=name, release="1", address=Address(host="h", port=len(name)), zone=zone, weight=2.0)

    known = Loads(FakeWorld(), zone="here")
    assert known.choose([endpoint("a", "there"), endpoint("bb", "here")], ()) == endpoint("bb", "here")
    hashed = Loads(FakeWorld(), "consistent_hash")
    again = Loads(FakeWorld(), "consistent_hash")
    places = [endpoint("x" * n, "") for n in range(1, 6)]
    assert [hashed.choose(places, (), key) for key in "abcde"] == [
        again.choose(places[::-1], (), key) for key in "abcde"
    ]

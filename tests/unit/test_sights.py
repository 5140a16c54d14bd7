"""What a caller tells the registry of the instances that it asks: one word each, bounded, never queued."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.codec import encode
from gapless.core.errors import DiscoveryLost
from gapless.core.model import Address, Endpoint
from gapless.discovery import sights as module
from gapless.discovery.eyes import Sight
from gapless.discovery.load import Outcome
from gapless.discovery.sights import Pace, Report, Sights, Tally, report_always, sight_of, word
from gapless.testing import FakeWorld


def endpoint(port: int) -> Endpoint:
    return Endpoint(instance=f"i{port}", release="", address=Address(host="h", port=port))


def tally(*seen: Sight) -> Tally:
    made = Tally("i1")
    for sight in seen:
        made.add(sight)
    return made


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([Sight.WELL], Sight.WELL),
        ([Sight.WELL] * 9 + [Sight.REFUSED], Sight.REFUSED),
        ([Sight.RESET, Sight.WELL, Sight.WELL], Sight.WELL),
        ([Sight.WELL, Sight.SLOW], Sight.WELL),
        ([Sight.WELL, Sight.FAILED, Sight.SLOW, Sight.FAILED], Sight.FAILED),
        ([Sight.SLOW, Sight.SLOW, Sight.FAILED], Sight.SLOW),
    ],
)
def test_one_word_for_what_was_seen(seen: list[Sight], said: Sight) -> None:
    assert word(tally(*seen)) is said


@given(st.lists(st.sampled_from(Sight), min_size=1, max_size=30))
def test_the_word_was_seen(seen: list[Sight]) -> None:
    said = word(tally(*seen))
    assert said in seen or (said is Sight.WELL and len(set(seen)) > 1)
    assert said is not Sight.WELL or seen[-1] not in (Sight.REFUSED, Sight.RESET)


def test_each_instance_once_and_then_forgotten() -> None:
    sights = Sights()
    for _ in range(1000):
        sights.saw("stock", endpoint(1), Sight.WELL)
        sights.saw("stock", endpoint(2), Sight.FAILED)
    sights.saw("payment", endpoint(1), Sight.WELL)
    told = [(one.service, one.id, one.address, one.sight) for one in sights.take()]
    assert told == [
        ("stock", "i1", "h:1", Sight.WELL),
        ("stock", "i2", "h:2", Sight.FAILED),
        ("payment", "i1", "h:1", Sight.WELL),
    ]
    assert sights.take() == ()


def test_more_than_fits_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    sights = Sights()
    for port in (1, 2, 3, 1):
        sights.saw("stock", endpoint(port), Sight.WELL)
    assert [one.id for one in sights.take()] == ["i1", "i2"]


@pytest.mark.parametrize(
    ("outcome", "slow", "sight"),
    [
        (Outcome.ANSWERED, False, Sight.WELL),
        (Outcome.ANSWERED, True, Sight.SLOW),
        (Outcome.LATE, False, Sight.SLOW),
        (Outcome.FAILED, True, Sight.FAILED),
        (Outcome.RESET, False, Sight.RESET),
        (Outcome.REFUSED, False, Sight.REFUSED),
        (Outcome.ABANDONED, True, None),
    ],
)
def test_what_an_outcome_looks_like(outcome: Outcome, slow: bool, sight: Sight | None) -> None:
    assert sight_of(outcome, slow) is sight


def test_slow_is_much_slower_than_usual() -> None:
    pace = Pace()
    assert not any(pace.slow(0.02) for _ in range(100))
    assert not pace.slow(0.09)
    assert [pace.slow(1.0) for _ in range(3)] == [True] * 3
    assert pace.usual_s < 0.04
    assert not any(Pace().slow(took_s) for took_s in (5.0, 5.0, 5.0))


@given(st.lists(st.floats(0.001, 10), min_size=1))
def test_what_is_usual_lies_among_what_was_seen(took: list[float]) -> None:
    pace = Pace()
    for each in took:
        pace.slow(each)
    assert min(took) * 0.99 <= pace.usual_s <= max(took) * 1.01


class Registry:
    def __init__(self, world: FakeWorld) -> None:
        self.world, self.away = world, False
        self.heard: list[tuple[float, Report]] = []
        self.tried = 0

    async def __call__(self, report: Report) -> None:
        self.tried += 1
        if self.away:
            raise DiscoveryLost
        self.heard.append((self.world.now(), report))


async def test_reports_are_made_once_a_second_and_only_if_there_is_something_to_tell() -> None:
    world, sights = FakeWorld(), Sights()
    registry = Registry(world)
    task = asyncio.create_task(report_always(sights, "host-a", registry, world))
    for _ in range(200):
        sights.saw("stock", endpoint(1), Sight.WELL)
        await world.advance(0.05)
    assert 8 <= len(registry.heard) <= 13
    await world.advance(2)
    heard = len(registry.heard)
    await world.advance(10)
    assert len(registry.heard) == heard
    assert json.loads(encode(registry.heard[0][1])) == {
        "Observer": "host-a",
        "Sights": [{"Service": "stock", "ID": "i1", "Address": "h:1", "Sight": "well"}],
    }
    task.cancel()
    await asyncio.wait({task})
    assert world.pending == 0


async def test_while_the_registry_is_away_everything_is_dropped_and_it_is_asked_seldom() -> None:
    world, sights = FakeWorld(), Sights()
    registry = Registry(world)
    registry.away = True
    task = asyncio.create_task(report_always(sights, "a", registry, world))
    for _ in range(300):
        sights.saw("stock", endpoint(1), Sight.REFUSED)
        await world.advance(1)
    assert registry.tried < 15
    sights.saw("stock", endpoint(1), Sight.REFUSED)
    registry.away = False
    await world.advance(60)
    sights.saw("stock", endpoint(2), Sight.WELL)
    await world.advance(2)
    assert {one.id for _, report in registry.heard for one in report.sights} == {"i2"}
    task.cancel()
    await asyncio.wait({task})

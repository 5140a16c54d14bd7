"""Known keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.resilience.cache_bloom import Bloom, Known
from gapless.testing.world import FakeWorld


@given(st.sets(st.one_of(st.integers(), st.text(), st.tuples(st.text(), st.integers())), max_size=50))
def test_never_denies_a_key_that_was_added(keys: set[object]) -> None:
    bloom = Bloom(50, 0.01)
    for key in keys:
        bloom.add(key)
    assert all(key in bloom for key in keys)


@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_takes_no_more_unknown_keys_for_known_than_promised(rate: float) -> None:
    bloom = Bloom(2_000, rate)
    for number in range(2_000):
        bloom.add(number)
    wrong = sum(number in bloom for number in range(10_000, 20_000))
    assert wrong / 10_000 < rate * 1.5


def test_costs_ten_bits_a_key_at_one_percent() -> None:
    assert len(Bloom(1_000_000, 0.01)._bits) < 1_250_000


async def test_a_key_that_is_made_during_a_rebuild_is_known_afterwards() -> None:
    world = FakeWorld()

    async def load() -> AsyncIterator[str]:
        yield "a"
        await world.sleep(1)
        yield "b"

    known = Known(load, every=10)
    assert "anything" in known
    rebuild = asyncio.ensure_future(known.rebuild(world))
    await world.advance(0.5)
    assert not known.due(world.now() + 100), "one rebuild at a time"
    known.add("made meanwhile")
    await world.advance(1)
    await rebuild
    assert ["a" in known, "b" in known, "made meanwhile" in known, "other" in known] == [True, True, True, False]
    assert not known.due(world.now())
    assert known.due(world.now() + 10)


async def test_a_rebuild_forgets_what_is_gone_and_makes_room() -> None:
    world = FakeWorld()
    keys = [f"old-{n}" for n in range(100)]
    known = Known(lambda: keys, capacity=10)
    await known.rebuild(world)
    assert known.due(world.now()), "too full: again at once, with more room"
    keys = ["new"]
    await known.rebuild(world)
    assert ("new" in known, "old-1" in known) == (True, False)


async def test_a_rebuild_that_fails_leaves_the_old_filter(caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld()
    fail = False

    async def load() -> list[str]:
        if fail:
            raise OSError("away")
        return ["a"]

    known = Known(load, every=60)
    await known.rebuild(world)
    fail = True
    await known.rebuild(world)
    assert ("a" in known, "b" in known, known.failed) == (True, False, 1)
    assert "trying again in 5 s" in caplog.text
    assert known.due(world.now() + 5)


def test_filled_by_hand() -> None:
    known = Known()
    known.fill(["a"])
    assert ("a" in known, "b" in known, known.due(1e9)) == (True, False, False)


@pytest.mark.parametrize(("capacity", "rate"), [(0, 0.01), (10, 0.0), (10, 1.0)])
def test_wrong_numbers_are_refused(capacity: int, rate: float) -> None:
    with pytest.raises(ConfigError, match="cannot be built"):
        Known(capacity=capacity, error_rate=rate)

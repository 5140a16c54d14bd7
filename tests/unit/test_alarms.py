"""One timer for many that wait."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gapless.core.alarms import SLACK, Alarms
from gapless.testing import FakeWorld


def waiter() -> asyncio.Future[int]:
    return asyncio.get_running_loop().create_future()


Asked = list[tuple[int, bool]]
"""Seconds until the moment, and whether something else comes first."""


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=30))
def test_each_is_woken_at_its_moment_unless_it_was_before(asked: Asked) -> None:
    asyncio.run(woken_in_time(asked))


async def woken_in_time(asked: Asked) -> None:
    world = FakeWorld()
    alarms = Alarms(world)
    waiting = [(seconds, early, waiter()) for seconds, early in asked]
    for seconds, _, future in waiting:
        alarms.add(world.now() + seconds, future)
    for _, early, future in waiting:
        if early:
            future.set_result(1)
            alarms.drop()
    for moment in range(51):
        assert all(future.done() is (early or moment >= seconds) for seconds, early, future in waiting)
        await world.advance(1.0)
    for _, early, _ in waiting:
        if not early:
            alarms.drop()
    assert world.pending == 0


async def test_those_who_wait_no_longer_are_not_kept() -> None:
    world = FakeWorld()
    alarms = Alarms(world)
    stays = waiter()
    alarms.add(world.now() + 600.0, stays)
    for _ in range(3 * SLACK):
        gone = waiter()
        alarms.add(world.now() + 300.0, gone)
        gone.cancel()
        alarms.drop()
    assert len(alarms._rows) <= SLACK + 2
    assert world.pending == 1
    await world.advance(600.0)
    assert stays.result() == 0

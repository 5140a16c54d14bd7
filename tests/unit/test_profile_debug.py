"""What a worker and its admin socket answer when they are asked for profiles at the wrong moment, or in wrong words."""

from __future__ import annotations

import asyncio

import pytest

from gapless.core.errors import InvalidTransition
from gapless.server.admin.debug import Wanted, wanted
from gapless.server.worker.debug import Debug
from gapless.testing import FakeWorld


def test_a_query_says_what_to_measure() -> None:
    assert wanted("") == Wanted(10.0, debug=False, pid=0)
    assert wanted("seconds=2.5&debug=1&pid=7") == Wanted(2.5, debug=True, pid=7)


@pytest.mark.parametrize("query", ["seconds=61", "seconds=0", "seconds=x", "second=3", "pid=", "seconds=nan"])
def test_a_wrong_query_is_refused_with_what_would_be_right(query: str) -> None:
    with pytest.raises(InvalidTransition, match="does not say") as refused:
        wanted(query)
    assert "seconds=10" in refused.value.remedy


async def test_one_question_at_a_time() -> None:
    world = FakeWorld()
    debug = Debug(world, lambda: True)
    first = asyncio.ensure_future(debug.answer("debug:cpu 5"))
    await asyncio.sleep(0)
    assert "cpu" in (await debug.answer("debug:heap"))["error"]
    await world.advance(5.0)
    assert (await first)["measures"][-1] == ["cpu", "nanoseconds"]


async def test_what_it_does_not_know_is_told_to_a_newer_master() -> None:
    assert "cannot tell 'colour'" in (await Debug(FakeWorld(), lambda: True).answer("debug:colour"))["error"]


async def test_leaks_need_a_baseline_and_a_worker_that_may_leave() -> None:
    debug = Debug(FakeWorld(), lambda: False)
    assert "no baseline" in (await debug.answer("debug:leaks"))["error"]
    assert "frames" in await debug.answer("debug:baseline")
    assert "about to leave" in (await debug.answer("debug:leaks"))["error"]
    await debug.left()  # nobody waits for it

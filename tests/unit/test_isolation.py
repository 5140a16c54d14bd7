"""What fails alone: callbacks, spawned work and loops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gapless.resilience.isolation import Isolation
from gapless.testing import FakeWorld


async def test_a_callback_or_plugin_that_raises_is_counted_and_logged_with_its_traceback(caplog: Any) -> None:
    counted: list[str] = []
    isolation = Isolation(FakeWorld(), counted=counted.append)

    def plugin(number: int) -> int:
        return 10 // number

    async def later(number: int) -> int:
        return 10 // number

    safe, safe_later = isolation.isolated(plugin, name="plugin"), isolation.isolated(later, name="later")
    assert (safe(2), safe(0)) == (5, None)
    assert (await safe_later(2), await safe_later(0)) == (5, None)  # type: ignore[misc]
    assert counted == ["plugin", "later"]
    assert isolation.failures == {"plugin": 1, "later": 1}
    assert caplog.text.count("ZeroDivisionError") == 2
    assert "test_isolation.py" in caplog.text


async def test_neighbours_go_on_while_one_crashes_and_comes_back() -> None:
    world = FakeWorld()
    isolation = Isolation(world)
    ticks: list[float] = []

    async def good() -> None:
        while True:
            ticks.append(world.now())
            await world.sleep(1.0)

    async def bad() -> None:
        raise RuntimeError("broken")

    isolation.supervise("good", good)
    isolation.supervise("bad", bad)
    isolation.spawn(bad(), "once")
    await world.advance(10.0)
    assert len(ticks) == 11
    assert isolation.failures["bad"] >= 5
    assert isolation.failures["once"] == 1
    assert isolation.failures["good"] == 0
    await isolation.cancel()
    assert world.pending == 0


async def test_cancellation_and_the_end_of_the_process_pass() -> None:
    isolation = Isolation(FakeWorld())

    def ends() -> None:
        raise SystemExit(3)

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(SystemExit):
        isolation.isolated(ends)()
    with pytest.raises(asyncio.CancelledError):
        await isolation.isolated(cancelled)()  # type: ignore[misc]

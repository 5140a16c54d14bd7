"""Checks: verdicts, limits, beats."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gapless.service.checks import Check, Checks, Result, judged
from gapless.testing import FakeWorld


async def run(call: Any, seconds: float = 0, **options: Any) -> Result:
    world = FakeWorld()
    checks = Checks(world)
    checks.add(check := Check(name="c", call=call, **options))
    task = asyncio.ensure_future(checks.run(check))
    await world.advance(seconds)
    return await task


async def returns(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("value", "passed", "detail"), [(None, True, ""), (True, True, ""), (False, False, ""), ("4 free", True, "4 free")]
)
async def test_what_is_returned_is_the_verdict(value: Any, passed: bool, detail: str) -> None:
    async def call() -> Any:
        return value

    found = await run(call)
    assert (found.passed, found.detail) == (passed, detail)
    threaded = await run(lambda: value)
    assert (threaded.passed, threaded.detail) == (passed, detail)


async def test_what_is_raised_is_the_detail() -> None:
    async def call() -> None:
        raise ConnectionError("refused by db:5432")

    assert await run(call) == Result(detail="ConnectionError: refused by db:5432", since_at=1_700_000_000.0)


async def test_a_hanging_check_fails_after_its_limit() -> None:
    async def call() -> None:
        await asyncio.Event().wait()

    found = await run(call, 2.0, timeout_s=1.5)
    assert (found.passed, found.detail, found.latency_s) == (False, "no answer within 1.5 s", 1.5)


def test_the_moment_of_the_last_change_is_kept() -> None:
    first = judged(Result(), Result(passed=False, detail="a"), 10.0)
    assert first.since_at == 10.0
    assert judged(first, Result(passed=False, detail="b"), 20.0).since_at == 10.0
    assert judged(first, Result(passed=True), 20.0).since_at == 20.0


async def test_all_run_at_the_same_time_and_beat_by_themselves() -> None:
    world = FakeWorld()
    checks = Checks(world)
    ran: list[tuple[str, float]] = []
    for name in ("one", "two"):

        async def call(name: str = name) -> None:
            await world.sleep(0.5)
            ran.append((name, world.now()))

        checks.add(Check(name=name, call=call, every_s=2.0))
    assert not checks.passing
    assert checks.failing() == ["one: has not run yet", "two: has not run yet"]
    task = asyncio.ensure_future(checks.run_all())
    await world.advance(0.5)
    assert task.result()
    beats = [asyncio.ensure_future(loop()) for _, loop in checks.loops()]  # type: ignore[arg-type]
    await world.advance(5.0)
    assert ran == [(name, at) for at in (0.5, 3.0, 5.5) for name in ("one", "two")]
    for beat in beats:
        beat.cancel()
    await asyncio.wait(beats)

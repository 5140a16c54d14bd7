"""Deadlines: the header, the context and the limit on the world's clock."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.resilience import deadline
from gapless.resilience.deadline import begin, parse, remaining, render, within
from gapless.testing import FakeWorld

few = settings(deadline=None)


@few
@given(st.one_of(st.none(), st.binary(max_size=20)), st.floats(0, 1e6), st.floats(0, 1e6))
def test_no_header_extends_the_services_own_limit(value: bytes | None, now: float, own_s: float) -> None:
    assert now <= begin(now, value, own_s) <= now + own_s


@few
@given(st.integers(0, 10**10))
def test_a_deadline_never_grows_on_its_way(milliseconds: int) -> None:
    assert int(render(parse(b"%d" % milliseconds))) <= milliseconds
    assert int(render(parse(b"%d" % milliseconds))) >= milliseconds - 1


@pytest.mark.parametrize("value", [None, b"", b"soon", b"-5", b"1.5", b"1e9", b"9" * 13, b" 5"])
def test_what_is_no_duration_is_ignored(value: bytes | None) -> None:
    assert parse(value) == math.inf


def test_outside_of_a_request_there_is_no_deadline() -> None:
    assert remaining(5.0) == math.inf
    token = deadline.current.set(7.0)
    assert remaining(5.0) == 2.0
    deadline.current.reset(token)
    assert render(-1.0) == b"0"


async def test_within_ends_a_block_by_the_worlds_clock() -> None:
    world = FakeWorld()

    async def waits() -> None:
        async with within(world, 2.0):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(waits())
    await world.advance(1.9)
    assert not task.done()
    await world.advance(0.1)
    with pytest.raises(TimeoutError):
        task.result()


async def test_within_passes_results_errors_and_cancellation_on() -> None:
    world = FakeWorld()
    async with within(world, 1.0):
        pass
    with pytest.raises(ValueError, match="own"):
        async with within(world, 1.0):
            raise ValueError("own")

    async def waits() -> None:
        async with within(world, math.inf):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(waits())
    await world.advance(1e9)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert world.pending == 0


async def test_the_inner_limit_does_not_look_like_the_outer_one() -> None:
    world = FakeWorld()
    seen: list[str] = []

    async def waits() -> None:
        async with within(world, 5.0):
            try:
                async with within(world, 1.0):
                    await asyncio.Event().wait()
            except TimeoutError:
                seen.append("inner")
            await asyncio.Event().wait()

    task = asyncio.ensure_future(waits())
    await world.advance(1.0)
    assert seen == ["inner"]
    await world.advance(4.0)
    with pytest.raises(TimeoutError):
        task.result()

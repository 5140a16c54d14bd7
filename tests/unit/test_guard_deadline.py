"""The deadline policy: the smaller limit, one timer, and whose cancellation it was."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.resilience import deadline as clock
from gapless.resilience.breaker import breaker
from gapless.resilience.deadline import (
    from_headers,
    headers,
    metadata,
    parse_grpc,
    render_grpc,
)
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.deadline_wheel import LATE_S
from gapless.resilience.errors import BreakerOpen, DeadlineExceeded
from gapless.testing import FakeWorld
from tests.unit.guard_kit import Script, cancel_everywhere, guarded, outcome


async def under(world: FakeWorld, inherited_s: float, call: Callable[[], Awaitable[Any]]) -> Any:
    token = clock.current.set(world.now() + inherited_s)
    try:
        return await call()
    finally:
        clock.current.reset(token)


@given(st.floats(0.01, 10), st.one_of(st.just(math.inf), st.floats(0.01, 10)), st.floats(0.001, 12))
def test_the_smaller_limit_ends_the_call_in_time(own_s: float, inherited_s: float, takes_s: float) -> None:
    async def run() -> None:
        world = FakeWorld()
        script = Script(world, takes_s)
        found = await outcome(world, under(world, inherited_s, guarded(world, deadline(own_s))(script.ask)), 13)
        limit_s = min(own_s, inherited_s)
        if takes_s < limit_s:
            assert found == takes_s
        elif takes_s > limit_s + LATE_S:
            assert isinstance(found, DeadlineExceeded)
        assert world.now() <= min(takes_s, limit_s + LATE_S) + 0.5  # the steps in which time passes
        assert clock.current.get() == math.inf

    asyncio.run(run())


async def test_nothing_starts_after_the_deadline() -> None:
    world = FakeWorld()
    shop, script = guarded(world, deadline(5.0)), Script(world, 1)
    for inherited_s in (0.0, -1.0):
        found = await outcome(world, under(world, inherited_s, shop(script.ask)))
        assert isinstance(found, DeadlineExceeded)
        assert not found.started
        token = clock.current.set(world.now() + inherited_s)
        with pytest.raises(DeadlineExceeded):
            shop(script.ask_sync)()
        clock.current.reset(token)
    assert script.calls == 0
    assert shop.statistics()["policies"]["deadline"] == {"expired": 0, "refused": 4}


async def test_what_is_called_inside_sees_the_smaller_deadline() -> None:
    world = FakeWorld()

    async def ends_at() -> float:
        return clock.current.get()

    def ends_at_sync() -> float:
        return clock.current.get()

    shop = guarded(world, deadline(2.0))
    assert await shop(ends_at)() == 2.0
    assert await under(world, 1.0, shop(ends_at)) == 1.0
    assert shop(ends_at_sync)() == 2.0


async def test_a_sync_answer_that_comes_too_late_is_none() -> None:
    world = FakeWorld()
    shop = guarded(world, deadline(2.0))
    assert shop(Script(world, 1.0).ask_sync)() == 1.0
    with pytest.raises(DeadlineExceeded, match="no answer within 2 s"):
        shop(Script(world, 3.0).ask_sync)()


async def test_a_clients_cancellation_is_not_the_deadlines() -> None:
    world = FakeWorld()
    shop = guarded(world, deadline(2.0))
    task = asyncio.ensure_future(shop(Script(world, 9.0).ask)())
    await world.advance(1.0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert shop.statistics()["policies"]["deadline"]["expired"] == 0


async def test_a_client_that_cancels_in_the_same_moment_is_not_overruled() -> None:
    world = FakeWorld()
    shop = guarded(world, deadline(2.0))
    task = asyncio.ensure_future(shop(Script(world, 9.0).ask)())
    await world.settle()
    world.after(2.0, task.cancel)
    await world.advance(2.0)
    assert task.cancelled()


async def test_an_outer_timeout_and_the_guards_own_are_told_apart() -> None:
    world = FakeWorld()
    inner, outer = guarded(world, deadline(2.0)), guarded(world, deadline(2.0))

    async def both() -> Any:
        return await inner(Script(world, 9.0).ask)()

    found = await outcome(world, outer(both)())
    assert isinstance(found, DeadlineExceeded)
    assert inner.statistics()["cancelled"] + inner.statistics()["expired"] == 1


async def test_a_call_that_swallows_its_cancellation_leaves_the_task_uncancelled() -> None:
    world = FakeWorld()

    async def stubborn() -> int:
        try:
            await world.sleep(9.0)
        except asyncio.CancelledError:
            return 7
        return 8

    async def run() -> tuple[int, int]:
        found = await guarded(world, deadline(1.0))(stubborn)()
        task = asyncio.current_task()
        assert task is not None
        return found, task.cancelling()

    assert await outcome(world, run()) == (7, 0)


async def test_what_the_deadline_cuts_opens_the_breaker_and_what_clients_cancel_does_not() -> None:
    """Defect of five breakers of six: calls that an outer timeout cuts never opened them."""
    world = FakeWorld()
    shop = guarded(world, deadline(1.0), breaker(minimum=5))
    ask = shop(Script(world, 9.0).ask)
    for _ in range(10):
        task = asyncio.ensure_future(ask())
        await world.advance(0.5)
        task.cancel()
        await world.settle()
    assert shop.statistics()["policies"]["breaker"]["state"] == "closed"
    ends = [await outcome(world, ask()) for _ in range(6)]
    assert [type(end) for end in ends] == [DeadlineExceeded] * 5 + [BreakerOpen]


async def test_a_thousand_calls_share_one_timer_that_ends_with_them() -> None:
    world = FakeWorld()
    ask = guarded(world, deadline(2.0))(Script(world, 9.0).ask)
    tasks = [asyncio.ensure_future(ask()) for _ in range(1000)]
    await world.settle()
    assert world.pending == 1000 + 1  # what the calls themselves wait for, and the timer
    for task in tasks[1:]:
        task.cancel()
    await world.advance(2.0)
    assert isinstance(tasks[0].exception(), DeadlineExceeded)
    assert world.pending == 0


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0.05, 3), st.floats(0.01, 3)), min_size=1, max_size=12))
def test_many_calls_end_each_at_its_own_time(calls: list[tuple[float, float, float]]) -> None:
    async def run() -> None:
        world = FakeWorld()
        shop = guarded(world, deadline(1.0))
        ended: dict[int, float] = {}

        async def one(number: int, begins_s: float, inherited_s: float, takes_s: float) -> None:
            await world.sleep(begins_s)
            with contextlib.suppress(DeadlineExceeded):
                await under(world, inherited_s, shop(Script(world, takes_s).ask))
            ended[number] = world.now() - begins_s

        tasks = [asyncio.ensure_future(one(number, *each)) for number, each in enumerate(calls)]
        await world.advance(7.0)
        await asyncio.gather(*tasks)
        for number, (_, inherited_s, takes_s) in enumerate(calls):
            right = min(takes_s, inherited_s, 1.0)
            assert right - 1e-9 <= ended[number] <= right + LATE_S + 1e-6
        assert world.pending == 0

    asyncio.run(run())


async def test_cancelled_at_every_await_it_leaves_nothing_behind() -> None:
    def start() -> Any:
        world = FakeWorld()
        shop = guarded(world, deadline(2.0))

        def check() -> None:
            assert world.pending == 0
            assert clock.current.get() == math.inf
            layer: Any = shop.layers()["deadline"]
            assert all(not wheel.queue for wheel in layer._wheels.values())

        return world, shop(Script(world, 1.0).ask)(), check

    assert await cancel_everywhere(start) >= 1


async def test_two_loops_in_two_threads_have_wheels_of_their_own() -> None:
    world = FakeWorld()
    ask = guarded(world, deadline(2.0))(Script(world, 1).ask)
    for _ in range(2):
        assert await ask() == 1
        assert await asyncio.to_thread(lambda: asyncio.run(_call(ask))) == 1


async def _call(ask: Callable[[], Awaitable[Any]]) -> Any:
    return await ask()


def test_a_limit_of_nothing_is_refused() -> None:
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError):
            deadline(wrong)


# On the way between services


@given(st.floats(0, 1e9))
def test_a_grpc_timeout_is_short_and_never_longer_than_what_is_left(remaining_s: float) -> None:
    rendered = render_grpc(remaining_s)
    assert len(rendered) <= 9
    assert parse_grpc(rendered) <= remaining_s + 1e-9
    assert parse_grpc(rendered) >= remaining_s * 0.999 - 1e-8


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9),
        (b"99999999H", 99999999 * 3600.0),
        (None, math.inf), (b"", math.inf), (b"S", math.inf), (b"1", math.inf), (b"1h", math.inf), (b"-1S", math.inf),
        (b"123456789S", math.inf), (b"1.5S", math.inf),
    ],
)  # fmt: skip
def test_grpc_timeouts(value: bytes | None, seconds: float) -> None:
    assert parse_grpc(value) == pytest.approx(seconds)


def test_both_headers_are_read_and_the_smaller_counts() -> None:
    assert from_headers({}) == math.inf
    assert from_headers({b"x-gapless-deadline-ms": b"500", b"grpc-timeout": b"2S"}) == 0.5
    assert (headers(0.0), metadata(0.0)) == ({}, [])
    token = clock.current.set(2.5)
    assert headers(1.0) == {"x-gapless-deadline-ms": "1500"}
    assert metadata(1.0) == [("grpc-timeout", "1500000u")]
    assert metadata(9.0) == [("grpc-timeout", "0n")]
    clock.current.reset(token)

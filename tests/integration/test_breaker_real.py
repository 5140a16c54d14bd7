"""The breaker on the real clock: outer timeouts, real threads, and inside a whole guard."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from gapless.core.world import RealWorld
from gapless.resilience.breaker import breaker, growing
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import BreakerOpen, DeadlineExceeded, Overloaded
from gapless.resilience.guard import guard, idempotent
from gapless.resilience.hedge import hedge
from gapless.resilience.limit import limit
from gapless.resilience.policy import Binding, Site

WORLD = RealWorld()


def uvloop_runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def layer(**more: Any) -> Any:
    return breaker(window=20, minimum=5, **more).bind(Binding(guard="g", world=WORLD, now=WORLD.now))


async def hang(args: Any, kwargs: Any) -> None:
    await asyncio.sleep(30)


async def test_calls_cut_by_asyncio_timeout_open_it() -> None:
    bound = layer()
    call = bound.around(hang, Site(name="hang"))
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await call((), {})
        await asyncio.sleep(0)
    assert bound.statistics()["state"] == "open"


@pytest.mark.parametrize("runner", [asyncio.Runner, uvloop_runner], ids=["asyncio", "uvloop"])
def test_calls_cut_by_wait_for_open_it_also_when_that_is_cut_by_another(runner: Any) -> None:
    async def main() -> None:
        bound = layer()
        call = bound.around(hang, Site(name="hang"))
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call((), {}), 0.005)
            await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await asyncio.wait_for(call((), {}), 30)
            await asyncio.sleep(0.001)
        assert bound.statistics()["state"] == "open"

    with runner() as running:
        running.run(main())


@pytest.mark.parametrize("waits", [False, True], ids=["plain", "in wait_for"])
async def test_clients_that_go_away_do_not_open_it(waits: bool) -> None:
    bound = layer()
    call = bound.around(hang, Site(name="hang"))
    tasks = [asyncio.ensure_future(asyncio.wait_for(call((), {}), 30) if waits else call((), {})) for _ in range(20)]
    await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert bound.statistics()["calls"] == 0


def test_ten_threads_are_served_at_once() -> None:
    """pybreaker holds its lock during the call: ten calls of 0.1 s took 1.01 s."""
    together = threading.Barrier(10)
    call = layer().around_sync(lambda args, kwargs: together.wait(20), Site(name="meet"))
    with ThreadPoolExecutor(10) as pool:
        found = [pool.submit(call, (), {}).result for _ in range(10)]
        assert sorted(result() for result in found) == list(range(10))


def test_threads_that_fail_at_once_open_it_once_and_count_exactly() -> None:
    bound = layer(open_for=growing(60, 60))
    begin = threading.Barrier(16)

    def down(args: Any, kwargs: Any) -> None:
        raise OSError("down")

    call = bound.around_sync(down, Site(name="down"))
    outcomes: list[type[BaseException]] = []

    def work() -> None:
        begin.wait()
        for _ in range(50):
            try:
                call((), {})
            except (OSError, BreakerOpen) as error:
                outcomes.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figures = bound.statistics()
    assert (figures["opened"], figures["calls"]) == (1, 5)
    assert outcomes.count(BreakerOpen) == figures["rejected"]
    assert len(outcomes) == 800


async def test_in_a_whole_guard_the_deadline_opens_it_and_a_refusal_further_in_does_not() -> None:
    hanging = guard("hanging", deadline(0.01), breaker(window=20, minimum=5))
    crowded = guard("crowded", breaker(window=20, minimum=5), limit(1))

    @hanging
    async def hangs() -> None:
        await asyncio.sleep(30)

    @crowded
    async def works() -> None:
        await asyncio.sleep(0.01)

    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            await hangs()
    with pytest.raises(BreakerOpen):
        await hangs()
    outcomes = await asyncio.gather(*(works() for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(each, Overloaded) for each in outcomes) == 9
    await works()


async def test_in_a_whole_guard_a_hedge_beats_a_hanging_attempt_without_failing_it() -> None:
    quick = guard("quick", deadline(5.0), hedge(after=0.01), breaker(window=20, minimum=1), limit(2))
    asked = 0

    @quick
    @idempotent
    async def answer() -> int:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.sleep(30)
        return asked

    assert await answer() == 2
    await asyncio.sleep(0)
    assert await answer() == 3

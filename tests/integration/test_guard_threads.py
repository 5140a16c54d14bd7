"""Guards in real threads and in several loops, on the real clock."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gapless.core.world import RealWorld
from gapless.resilience.breaker import breaker
from gapless.resilience.budget import Budget, ratio
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import DeadlineExceeded, Overloaded, Transient
from gapless.resilience.fallback import fallback
from gapless.resilience.guard import guard, idempotent
from gapless.resilience.limit import limit
from gapless.resilience.rate import rate
from gapless.resilience.retry_layer import retry

THREADS = 10


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(THREADS)))


def test_threads_do_not_wait_for_each_other() -> None:
    """Defect of pybreaker (#55): it holds its lock during the call, 10 threads of 0.1 s took 1.01 s."""
    shop = guard("shop", deadline(30.0), retry(idempotent=True), breaker(), rate("1000/s"), limit(THREADS))
    together = threading.Barrier(THREADS)

    @shop
    def ask(number: int) -> int:
        together.wait(20)
        return number

    assert in_threads(ask) == list(range(THREADS))


def test_counters_places_and_the_queue_are_exact_in_threads() -> None:
    shop = guard("shop", deadline(30.0), limit(3, queue=100, wait=30.0, codel=None))
    inside, most, lock = 0, 0, threading.Lock()

    @shop
    def ask(fail: bool) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.0005)
        with lock:
            inside -= 1
        if fail:
            raise ValueError

    def work(number: int) -> int:
        failed = 0
        for call in range(40):
            try:
                ask(call % 2 == 0)
            except ValueError:
                failed += 1
        return failed

    assert sum(in_threads(work)) == THREADS * 20
    counts = shop.statistics()
    assert (counts["calls"], counts["failed"], counts["rejected"]) == (THREADS * 40, THREADS * 20, 0)
    assert counts["policies"]["limit"]["busy"] == 0
    assert most <= 3


def test_a_budget_grants_no_more_than_it_has_in_threads() -> None:
    budget = Budget(ratio(0.0, floor_per_s=0.0, burst=500.0), RealWorld())
    granted = in_threads(lambda _: sum(budget.withdraw() for _ in range(200)))
    assert sum(granted) == 500


def test_a_reload_under_load_fails_no_call() -> None:
    shop = guard("shop", deadline(5.0), limit(50))
    stop = threading.Event()

    @shop
    @idempotent
    def ask(number: int) -> int:
        return number

    def work(number: int) -> int:
        calls = 0
        while not stop.is_set():
            assert ask(number) == number
            calls += 1
        return calls

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, number) for number in range(4)]
        for change in range(40):
            shop.replace(deadline(5.0 + change), fallback(-1, on=Transient), retry(), breaker(), limit(50 + change))
            time.sleep(0.001)
        stop.set()
        calls = sum(each.result() for each in running)
    counts = shop.statistics()
    assert (counts["calls"], counts["failed"], counts["rejected"]) == (calls, 0, 0)
    assert counts["policies"]["limit"]["busy"] == 0


def test_loops_in_threads_share_a_guard_and_each_ends_its_own_calls_in_time() -> None:
    shop = guard("shop", deadline(0.2), limit(THREADS))
    late: list[float] = []

    @shop
    async def ask() -> None:
        await asyncio.sleep(10.0)

    async def main() -> None:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await ask()
            late.append(time.monotonic() - began - 0.2)

    in_threads(lambda _: asyncio.run(main()))
    assert min(late) >= 0
    assert sorted(late)[len(late) // 2] < 0.1
    assert shop.statistics()["expired"] == THREADS * 2
    assert shop.statistics()["policies"]["limit"]["busy"] == 0


async def test_a_deadline_fires_in_time_and_an_idle_guard_does_nothing() -> None:
    shop = guard("shop", deadline(0.05))
    late: list[float] = []

    @shop
    async def ask(seconds: float) -> None:
        await asyncio.sleep(seconds)

    loop = asyncio.get_running_loop()
    for _ in range(15):
        began = loop.time()
        with pytest.raises(DeadlineExceeded):
            await ask(5.0)
        late.append(loop.time() - began - 0.05)
    assert sorted(late)[7] < 0.03
    await ask(0.0)
    await asyncio.sleep(0.1)
    scheduled = [each for each in getattr(loop, "_scheduled", []) if not each.cancelled()]
    assert scheduled == []


def test_a_full_house_refuses_in_threads_and_enter_gives_back() -> None:
    shop = guard("shop", limit(1))
    with shop.enter(), pytest.raises(Overloaded), shop.enter():
        raise AssertionError("never reached")
    with shop.enter():
        pass
    assert shop.statistics()["policies"]["limit"]["busy"] == 0

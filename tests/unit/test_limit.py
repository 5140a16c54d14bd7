"""Places: never too many, never lost, whoever is cancelled wherever."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from gapless.core.errors import ConfigError
from gapless.resilience import deadline
from gapless.resilience.errors import DeadlineExceeded, Overloaded
from gapless.resilience.limit import LimitLayer, Priority, adaptive, limit, priority
from gapless.resilience.policy import Binding, Site
from gapless.testing.world import FakeWorld

SITE = Site(name="call")


def bound(world: FakeWorld, *args: Any, **more: Any) -> LimitLayer:
    layer = limit(*args, **more).bind(Binding(guard="g", world=world, now=world.now))
    assert isinstance(layer, LimitLayer)
    return layer


class Work:
    """Calls that last until they are told to end."""

    def __init__(self, world: FakeWorld, layer: LimitLayer) -> None:
        self.world, self.layer = world, layer
        self.begun: list[Any] = []
        self._ends: dict[Any, asyncio.Event] = {}
        self._call = layer.around(self._body, SITE)

    async def _body(self, args: Any, kwargs: Any) -> Any:
        self.begun.append(args[0])
        await self._ends.setdefault(args[0], asyncio.Event()).wait()
        return args[0]

    async def start(self, *names: Any) -> list[asyncio.Task[Any]]:
        tasks = [asyncio.ensure_future(self._call((name,), {})) for name in names]
        await self.world.settle()
        return tasks

    async def end(self, *names: Any) -> None:
        for name in names:
            self._ends.setdefault(name, asyncio.Event()).set()
        await self.world.settle()


async def test_one_more_than_the_limit_is_refused_without_a_queue() -> None:
    world = FakeWorld()
    work = Work(world, bound(world, 2))
    _, _, third = await work.start(1, 2, 3)
    with pytest.raises(Overloaded) as refused:
        await third
    assert refused.value.retry_after_s == 1.0
    await work.end(1, 2)
    assert work.layer.statistics() == {
        "limit": 2,
        "busy": 0,
        "waiting": 0,
        "admitted": 2,
        "queued": 0,
        "rejected": 1,
        "shed": 0,
        "evicted": 0,
        "late": 0,
    }


async def test_the_queue_is_first_in_first_out() -> None:
    world = FakeWorld()
    work = Work(world, bound(world, 1, queue=3))
    tasks = await work.start("a", "b", "c", "d", "e")
    assert isinstance(tasks[4].exception(), Overloaded)
    for name in "abcd":
        await work.end(name)
    assert work.begun == ["a", "b", "c", "d"]


async def test_nobody_waits_longer_than_the_queue_deadline_or_his_own() -> None:
    world = FakeWorld()
    work = Work(world, bound(world, 1, queue=9, wait=0.5))
    _, second = await work.start(1, 2)

    async def hurried() -> None:
        deadline.current.set(0.2)
        await work._call((3,), {})

    third = asyncio.ensure_future(hurried())
    await world.advance(0.2)
    assert isinstance(third.exception(), DeadlineExceeded)
    assert not third.exception().started  # type: ignore[union-attr]
    assert not second.done()
    await world.advance(0.3)
    assert isinstance(second.exception(), Overloaded)
    await work.end(1)
    assert (work.layer.state.busy, world.pending, work.begun) == (0, 0, [1])


async def test_a_place_that_comes_after_the_deadline_is_passed_on() -> None:
    world = FakeWorld()
    work = Work(world, bound(world, 1, queue=9, wait=60))
    await work.start(1)
    late = asyncio.ensure_future(_by(1.0, work))
    await world.settle()
    (_,) = await work.start(3)
    work._ends[1].set()
    world.stall(2.0)  # the process was stopped: place and deadline come at once
    await world.settle()
    assert isinstance(late.exception(), DeadlineExceeded)
    assert work.begun == [1, 3]


async def _by(at: float, work: Work) -> None:
    deadline.current.set(at)
    await work._call((2,), {})


async def test_a_waiter_cancelled_as_it_is_granted_a_place_passes_it_on() -> None:
    world = FakeWorld()
    work = Work(world, bound(world, 1, queue=9))
    first, second, _ = await work.start(1, 2, 3)
    work._ends[1].set()
    while not first.done():
        await asyncio.sleep(0)
    second.cancel()  # its place has been granted, and it has not run since
    await world.settle()
    assert second.cancelled()
    assert work.begun == [1, 3]


@pytest.mark.parametrize("most", [1, adaptive(max=1)])
@pytest.mark.parametrize("steps", range(7))
async def test_cancelled_at_each_of_its_waits_a_call_leaves_no_place_behind(most: Any, steps: int) -> None:
    """The second call waits for its place, then three times in its body. After `steps` steps it is cancelled."""
    world = FakeWorld()
    layer = bound(world, most, queue=5)
    blocker = asyncio.Event()

    async def body(args: Any, kwargs: Any) -> None:
        for _ in range(3):
            await args[0]()

    call = layer.around(body, SITE)
    first = asyncio.ensure_future(call((blocker.wait,), {}))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(call((lambda: asyncio.sleep(0),), {}))
    for step in range(steps):
        if step == 2:
            blocker.set()
        await asyncio.sleep(0)
    second.cancel()
    blocker.set()
    await asyncio.gather(first, second, return_exceptions=True)
    assert layer.state.busy == 0
    assert layer.state.queue.waiting == 0
    assert world.pending == 0
    await asyncio.wait_for(call((lambda: asyncio.sleep(0),), {}), 1)


@pytest.mark.parametrize("most", [1, adaptive(max=1)])
def test_driven_by_hand_and_closed_anywhere_a_call_leaves_no_place_behind(most: Any) -> None:
    class Wait:
        def __await__(self) -> Any:
            yield

    async def body(args: Any, kwargs: Any) -> None:
        for _ in range(3):
            await Wait()

    layer = bound(FakeWorld(), most)
    call = layer.around(body, SITE)
    for steps in range(5):
        coroutine: Any = call((), {})
        ended = False
        for _ in range(steps):
            try:
                coroutine.send(None)
            except StopIteration:
                ended = True
        if steps and not ended:
            with pytest.raises(asyncio.CancelledError):
                coroutine.throw(asyncio.CancelledError())
        coroutine.close()
        assert layer.state.busy == 0


async def test_whoever_fails_gives_its_place_back() -> None:
    world = FakeWorld()
    for most in (1, adaptive(max=1)):
        layer = bound(world, most)

        async def body(args: Any, kwargs: Any) -> None:
            raise OSError("no")

        for _ in range(3):
            with pytest.raises(OSError, match="no"):
                await layer.around(body, SITE)((), {})
        assert layer.state.busy == 0


async def test_a_place_cannot_be_given_back_twice() -> None:
    world = FakeWorld()
    layer = bound(world, 2)
    gate = layer.gate(Site(name="enter"))
    assert gate is not None
    held = await gate.acquire({})
    await gate.acquire({})
    gate.release(held, None)
    gate.release(held, None)
    assert layer.state.busy == 1
    gate.acquire_sync({})
    with pytest.raises(Overloaded):
        await gate.acquire({})


async def test_important_calls_are_served_first_and_make_room() -> None:
    world = FakeWorld()
    work = Work(world, bound(world, 1, queue=2))

    async def started(name: str, rank: int) -> asyncio.Task[Any]:
        priority.set(rank)
        (task,) = await work.start(name)
        return task

    await started("now", 1)
    batch = await started("batch", Priority.SHEDDABLE)
    await started("normal", Priority.NORMAL)
    assert (await started("batch 2", Priority.SHEDDABLE)).exception() is not None
    await started("urgent", Priority.CRITICAL)
    assert isinstance(batch.exception(), Overloaded)
    for name in ("now", "urgent", "normal"):
        await work.end(name)
    assert work.begun == ["now", "urgent", "normal"]
    assert work.layer.statistics()["evicted"] == 1


async def test_priority_by_key() -> None:
    from inspect import signature

    def function(tier: str) -> None: ...

    site = Site(name="f", signature=signature(function))
    rank = bound(FakeWorld(), 1, priority="{tier}")._rank(site)
    assert rank(("critical",), {}) == Priority.CRITICAL
    assert rank((), {"tier": 2}) == Priority.SHEDDABLE
    with pytest.raises(ConfigError, match="gold"):
        rank(("gold",), {})


async def test_a_reload_keeps_places_and_waiters() -> None:
    world = FakeWorld()
    old = bound(world, 3, queue=5)
    work = Work(world, old)
    await work.start(1, 2, 3, 4)
    new = bound(world, 1, queue=5)
    new.adopt(old)
    assert new.statistics()["busy"] == 3
    await work.end(1, 2)
    assert work.begun == [1, 2, 3]
    await work.end(3)
    assert work.begun == [1, 2, 3, 4]
    wider = bound(world, 4, queue=5)
    wider.adopt(new)
    await Work(world, wider).start(5, 6, 7)
    assert wider.statistics()["busy"] == 4
    await work.end(4)
    assert wider.statistics()["busy"] == 3


async def test_a_wider_limit_lets_the_waiting_in() -> None:
    world = FakeWorld()
    old = bound(world, 1, queue=5)
    work = Work(world, old)
    await work.start(1, 2, 3)
    bound(world, 3, queue=5).adopt(old)
    await world.settle()
    assert work.begun == [1, 2, 3]


async def test_waiters_of_a_closed_loop_leave_nothing_behind() -> None:
    world = FakeWorld()
    layer = bound(world, 1, queue=5)
    work = Work(world, layer)
    await work.start(1)

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        abandoned.append(loop.create_task(layer.turn(1)))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    abandoned: list[Any] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert layer.state.queue.waiting == 1
    await work.start(2)
    await work.end(1)
    assert work.begun == [1, 2]
    abandoned[0]._log_destroy_pending = False


@pytest.mark.parametrize("most", [4, adaptive(max=4)])
def test_threads_never_exceed_it_and_lose_no_place(most: Any) -> None:
    layer = bound(FakeWorld(), most, queue=100, wait=20.0)
    inside, worst, done, lock = 0, 0, 0, threading.Lock()

    def body(args: Any, kwargs: Any) -> None:
        nonlocal inside, worst
        with lock:
            inside += 1
            worst = max(worst, inside)
        time.sleep(0.0005)
        with lock:
            inside -= 1

    call = layer.around_sync(body, SITE)

    def work() -> None:
        nonlocal done
        for _ in range(10):
            call((), {})
            with lock:
                done += 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (done, worst) == (120, 4)
    assert (layer.state.busy, layer.state.queue.waiting) == (0, 0)


def test_a_thread_that_waits_too_long_is_refused() -> None:
    layer = bound(FakeWorld(), 1, queue=5, wait=0.01)
    assert layer.enter()
    with pytest.raises(Overloaded):
        layer.around_sync(lambda args, kwargs: None, SITE)((), {})
    assert layer.statistics()["late"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: limit(0),
        lambda: limit(1, queue=-1),
        lambda: limit(1, wait=0),
        lambda: limit(1, order="lifo"),  # type: ignore[arg-type]
        lambda: adaptive(max=0),
        lambda: adaptive(max=1, min=2),
        lambda: adaptive(max=1, tolerance=0.5),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        wrong()

"""The breaker around calls: what counts, what does not, and who is let through."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from gapless.core.errors import ConfigError
from gapless.resilience import deadline
from gapless.resilience.breaker import BreakerLayer, breaker, growing, last
from gapless.resilience.cuts import BEATEN
from gapless.resilience.errors import BreakerOpen, DeadlineExceeded, Overloaded
from gapless.resilience.events import BreakerChanged, CallRejected, GuardEvent
from gapless.resilience.guards import Guards
from gapless.resilience.limit import limit
from gapless.resilience.policy import Binding, Common, Site
from gapless.testing.world import FakeWorld

SITE = Site(name="call")
STEADY = growing(10, 10, jitter=0)


def bound(world: FakeWorld, *args: Any, hooks: Any = (), **more: Any) -> BreakerLayer:
    layer = breaker(*args, **more).bind(Binding(guard="g", world=world, now=world.now, common=Common(hooks=hooks)))
    assert isinstance(layer, BreakerLayer)
    return layer


async def scripted(args: Any, kwargs: Any) -> Any:
    """Does what its one argument says: raises it, awaits it, or returns it."""
    (what,) = args
    if isinstance(what, BaseException):
        raise what
    return await what if asyncio.isfuture(what) or asyncio.iscoroutine(what) else what


def do(what: Any) -> Any:
    if isinstance(what, BaseException):
        raise what
    return what


async def fail(call: Any, times: int, error: type[BaseException] = OSError) -> None:
    for _ in range(times):
        with pytest.raises(error):
            await call((error(),), {})


async def opened(world: FakeWorld, **more: Any) -> tuple[BreakerLayer, Any]:
    layer = bound(world, window=10, minimum=5, open_for=STEADY, **more)
    call = layer.around(scripted, SITE)
    await fail(call, 5)
    assert layer.statistics()["state"] == "open"
    return layer, call


async def test_opens_at_the_twentieth_of_twenty_calls_half_of_which_failed() -> None:
    layer = bound(FakeWorld(), rate=0.5, window=last("10s"), minimum=20)
    call = layer.around(scripted, SITE)
    for _ in range(10):
        await call((1,), {})
    await fail(call, 9)
    assert layer.statistics()["state"] == "closed"
    await fail(call, 1)
    assert layer.statistics()["state"] == "open"


async def test_refuses_with_the_time_that_is_left() -> None:
    world = FakeWorld()
    layer, call = await opened(world)
    await world.advance(3)
    with pytest.raises(BreakerOpen) as refused:
        await call((1,), {})
    assert refused.value.retry_after_s == pytest.approx(7)
    assert (refused.value.guard, refused.value.policy) == ("g", "breaker")
    assert layer.statistics()["rejected"] == 1


@pytest.mark.parametrize("probes", [1, 3, 7])
async def test_of_a_hundred_concurrent_calls_at_recovery_exactly_k_pass(probes: int) -> None:
    world = FakeWorld()
    layer, call = await opened(world, probes=probes)
    await world.advance(10)
    gate = asyncio.get_running_loop().create_future()
    calls = [asyncio.ensure_future(call((asyncio.shield(gate),), {})) for _ in range(100)]
    await world.settle()
    assert sum(not each.done() for each in calls) == probes
    gate.set_result(1)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(each == 1 for each in results) == probes
    assert layer.statistics()["state"] == "closed"


async def test_failed_probes_open_it_for_longer_each_time_until_the_cap() -> None:
    world = FakeWorld()
    layer = bound(world, window=10, minimum=1, probes=1, open_for=growing(1, 5, jitter=0))
    call = layer.around(scripted, SITE)
    spans = []
    for _ in range(5):
        await fail(call, 1)
        spans.append(layer.state.open_s)
        await world.advance(layer.state.open_s)
    assert spans == [1, 2, 4, 5, 5]


async def test_a_cancelled_probe_gives_its_place_back() -> None:
    world = FakeWorld()
    _, call = await opened(world, probes=1)
    await world.advance(10)
    probe = asyncio.ensure_future(call((world.sleep(1),), {}))
    await world.settle()
    await fail(call, 1, BreakerOpen)
    probe.cancel()
    await world.settle()
    assert await call((2,), {}) == 2


@pytest.mark.parametrize("steps", range(6))
async def test_cancelled_at_each_of_its_waits_a_probe_leaves_no_place_taken(steps: int) -> None:
    world = FakeWorld()
    layer = bound(world, window=10, minimum=5, probes=1, open_for=STEADY)
    await fail(layer.around(scripted, SITE), 5)
    await world.advance(10)

    async def waits(args: Any, kwargs: Any) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    call = layer.around(waits, SITE)
    probe = asyncio.ensure_future(call((), {}))
    for _ in range(steps):
        await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    await world.settle()
    await call((), {})
    assert layer.statistics()["state"] == "closed"


async def test_probes_that_never_answer_count_as_failed_in_the_end() -> None:
    world = FakeWorld()
    layer, call = await opened(world, probes=1)
    await world.advance(10)
    hangs = asyncio.ensure_future(call((world.sleep(1000),), {}))
    await world.advance(10)
    await fail(call, 1, BreakerOpen)
    assert (layer.statistics()["state"], layer.statistics()["opened"]) == ("open", 2)
    await world.advance(20)
    assert await call((3,), {}) == 3
    hangs.cancel()


async def test_slow_calls_open_it_too() -> None:
    world = FakeWorld()
    layer = bound(world, slow=1.0, slow_rate=0.5, window=10, minimum=4)
    call = layer.around(scripted, SITE)
    for wait_s in (0.5, 0.5, 1.0, 1.0):
        task = asyncio.ensure_future(call((world.sleep(wait_s),), {}))
        await world.advance(wait_s)
        await task
    assert layer.statistics()["state"] == "open"


async def test_results_and_exceptions_count_as_told() -> None:
    layer = bound(FakeWorld(), window=10, record=(OSError,), result=lambda answer: answer == 503)
    call = layer.around(scripted, SITE)
    await fail(call, 1, ValueError)
    assert layer.statistics()["failed"] == 0
    await fail(call, 1, OSError)
    assert await call((503,), {}) == 503
    assert layer.statistics()["failed"] == 2
    by_function = bound(FakeWorld(), window=10, record=lambda error: "no" in str(error))
    await fail(by_function.around(scripted, SITE), 1)
    assert by_function.statistics()["failed"] == 0


async def test_refusals_from_further_in_say_nothing_about_the_other_side() -> None:
    layer = bound(FakeWorld(), window=10)
    call = layer.around(scripted, SITE)
    for error in (Overloaded(), DeadlineExceeded(started=False)):
        with pytest.raises(type(error)):
            await call((error,), {})
    assert layer.statistics()["calls"] == 0
    with pytest.raises(DeadlineExceeded):
        await call((DeadlineExceeded(started=True),), {})
    assert (layer.statistics()["failed"], layer.statistics()["slow"]) == (1, 1)


async def test_what_an_outer_timeout_cuts_counts_as_failed_and_slow() -> None:
    world = FakeWorld()
    layer = bound(world, window=10, minimum=5)
    call = layer.around(scripted, SITE)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await call((world.sleep(5),), {})
        await world.settle()
    assert layer.statistics()["state"] == "open"
    assert layer.statistics()["slow"] == 5


async def test_what_the_deadline_cuts_counts_as_failed_and_slow() -> None:
    world = FakeWorld()
    layer = bound(world, window=10)
    call = layer.around(scripted, SITE)
    task = asyncio.ensure_future(_before(5.0, call, world))
    await world.advance(5)
    task.cancel()
    await world.settle()
    assert (layer.statistics()["failed"], layer.statistics()["slow"]) == (1, 1)


async def _before(at: float, call: Any, world: FakeWorld) -> None:
    deadline.current.set(at)
    await call((world.sleep(100),), {})


async def test_a_clients_cancellation_counts_nothing_also_when_its_way_out_is_long() -> None:
    world = FakeWorld()
    layer = bound(world, window=10)
    call = layer.around(scripted, SITE)

    async def lingering() -> None:
        try:
            await call((world.sleep(100),), {})
        finally:
            await world.sleep(1)

    for work in (call((world.sleep(100),), {}), lingering()):
        task = asyncio.ensure_future(work)
        await world.settle()
        task.cancel()
        await world.advance(2)
        assert task.cancelled()
    assert layer.statistics()["calls"] == 0


async def test_an_attempt_that_its_hedge_has_beaten_counts_nothing() -> None:
    world = FakeWorld()
    layer = bound(world, window=10)
    task = asyncio.ensure_future(layer.around(scripted, SITE)((world.sleep(100),), {}))
    await world.settle()
    task.cancel(BEATEN)
    await world.settle()
    assert layer.statistics()["calls"] == 0


async def test_a_timeout_whose_way_out_is_long_still_counts_in_a_task_that_never_ends() -> None:
    world = FakeWorld()
    layer = bound(world, window=10)
    call = layer.around(scripted, SITE)

    async def worker() -> None:
        try:
            async with asyncio.timeout(0):
                try:
                    await call((world.sleep(100),), {})
                finally:
                    await world.sleep(1)
        except TimeoutError:
            await world.sleep(1000)

    task = asyncio.ensure_future(worker())
    await world.advance(3)
    assert layer.statistics()["failed"] == 1
    task.cancel()


async def test_who_cancelled_is_not_asked_for_ever() -> None:
    world = FakeWorld()
    layer = bound(world, window=10)
    call = layer.around(scripted, SITE)

    async def stubborn() -> None:
        try:
            await call((world.sleep(100),), {})
        except asyncio.CancelledError:
            await world.sleep(10_000)

    task = asyncio.ensure_future(stubborn())
    await world.settle()
    task.cancel()
    await world.advance(600)
    assert (world.pending, layer.statistics()["calls"]) == (1, 0)
    task.cancel()


async def test_results_of_calls_from_before_it_opened_are_not_probes() -> None:
    world = FakeWorld()
    layer = bound(world, window=10, minimum=5, probes=1, open_for=STEADY)
    call = layer.around(scripted, SITE)
    late = asyncio.ensure_future(call((world.sleep(11),), {}))
    await world.settle()
    await fail(call, 5)
    await world.advance(10)
    probe = asyncio.ensure_future(call((world.sleep(5),), {}))
    await world.advance(1)
    assert late.done()
    assert layer.statistics()["state"] == "half-open"
    await world.advance(5)
    assert probe.done()
    assert layer.statistics()["state"] == "closed"


async def test_shadow_refuses_nothing_and_counts_everything() -> None:
    world, seen = FakeWorld(), list[GuardEvent]()
    layer, call = await opened(world, shadow=True, hooks=(seen.append,))
    assert await call((1,), {}) == 1
    assert layer.statistics()["rejected"] == 1
    assert [type(each) for each in seen] == [BreakerChanged, CallRejected]
    assert isinstance(seen[1], CallRejected)
    assert seen[1].shadow


async def test_forced_states() -> None:
    world = FakeWorld()
    layer, call = await opened(world)
    layer.force("closed")
    await fail(call, 20)
    assert layer.statistics()["state"] == "forced closed"
    layer.force("disabled")
    await fail(call, 20)
    layer.force("open")
    await fail(call, 1, BreakerOpen)
    layer.force("automatic")
    assert await call((1,), {}) == 1
    assert layer.statistics()["state"] == "closed"
    await fail(call, 4)
    layer.force("automatic")
    assert layer.statistics()["state"] == "open"
    with pytest.raises(ConfigError, match="ajar"):
        layer.force("ajar")


async def test_an_order_holds_in_shadow_mode_too() -> None:
    layer, call = await opened(FakeWorld(), shadow=True)
    layer.force("open")
    await fail(call, 1, BreakerOpen)
    layer.force("automatic")
    assert await call((1,), {}) == 1


async def test_a_guard_is_forced_by_its_name_and_stays_so_over_reloads() -> None:
    guards = Guards(FakeWorld())
    guards.define("pay", breaker(), limit(5))
    guards.force("pay", "open")
    guards.define("pay", breaker(rate=0.9, shadow=True), limit(5))
    with pytest.raises(BreakerOpen):
        async with guards.get("pay").enter():
            pass
    guards.force("pay", "automatic")
    async with guards.get("pay").enter():
        pass
    with pytest.raises(ConfigError, match=r"no guard 'stock'.*\n.*Known: pay"):
        guards.force("stock", "open")
    with pytest.raises(ConfigError, match="no breaker"):
        guards.define("stock", limit(5)).force("open")


async def test_events_tell_each_change_with_its_reason() -> None:
    world, seen = FakeWorld(), list[Any]()
    _, call = await opened(world, probes=1, hooks=(seen.append,))
    await world.advance(10)
    await call((1,), {})
    told = [(each.before, each.after, each.reason) for each in seen]
    assert told == [
        ("closed", "open", "5 of 5 calls failed"),
        ("open", "half-open", "open for 10 s"),
        ("half-open", "closed", "1 probes answered"),
    ]


async def test_enter_admits_and_counts() -> None:
    world = FakeWorld()
    layer = bound(world, window=10, minimum=2, slow=1.0)
    for error in (None, OSError()):
        layer.release(await layer.acquire({}), error)
    with pytest.raises(BreakerOpen):
        layer.acquire_sync({})
    assert layer.statistics()["failed"] == 1


async def test_a_reload_keeps_state_and_window() -> None:
    world = FakeWorld()
    old = bound(world, window=10, minimum=5)
    await fail(old.around(scripted, SITE), 4)
    new = bound(world, window=20, minimum=5)
    new.adopt(old)
    assert new.statistics()["window_failed"] == 4
    await fail(new.around(scripted, SITE), 1)
    assert old.statistics()["state"] == new.statistics()["state"] == "open"


def test_threads_are_not_serialised_and_exactly_k_of_them_probe() -> None:
    world = FakeWorld()
    layer = bound(world, window=10, minimum=5, probes=3, open_for=STEADY)
    call = layer.around_sync(lambda args, kwargs: do(args[0]()), SITE)
    for _ in range(5):
        with pytest.raises(OSError, match="no"):
            call((lambda: OSError("no"),), {})
    world.stall(10)
    inside, refused = threading.Barrier(3), threading.Barrier(28)
    passed: list[int] = []

    def work() -> None:
        if inside.wait(20) == 0:  # three must be inside at once, or the barrier breaks
            refused.wait(20)

    def attempt() -> None:
        try:
            call((work,), {})
            passed.append(1)
        except BreakerOpen:
            refused.wait(20)

    run_threads(attempt, 30)
    assert len(passed) == 3
    assert layer.statistics()["state"] == "closed"


def test_no_lock_is_held_during_the_call() -> None:
    inside = threading.Barrier(10)
    call = bound(FakeWorld(), window=100).around_sync(lambda args, kwargs: inside.wait(20), SITE)
    run_threads(lambda: call((), {}), 10)
    assert not inside.broken


def run_threads(target: Any, count: int) -> None:
    threads = [threading.Thread(target=target) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: breaker(rate=0), "rate=0"),
        (lambda: breaker(slow=0.0), "slow=0.0"),
        (lambda: breaker(slow_rate=2), "slow_rate=2"),
        (lambda: breaker(probes=0), "probes=0"),
        (lambda: breaker(minimum=0), "minimum=0"),
        (lambda: breaker(window=10, minimum=11), "never reached"),
        (lambda: last("soon"), "soon"),
        (lambda: last(0), "no window"),
        (lambda: growing(5, 1), "grow"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(wrong: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        wrong()

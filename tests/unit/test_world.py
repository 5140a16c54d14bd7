"""The pretended world: time, dice and processes under the test's control."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.ports import World
from gapless.core.world import RealWorld
from gapless.testing import FakeProcess, FakeWorld


async def test_is_a_world() -> None:
    world: World = FakeWorld()
    assert world.time() - world.now() == 1_700_000_000.0
    assert world.free_port("127.0.0.1") != world.free_port("127.0.0.1")


async def test_time_passes_only_when_told() -> None:
    world, log = FakeWorld(), []

    async def sleeper() -> None:
        await world.sleep(3)
        log.append(world.now())
        await world.sleep(2)
        log.append(world.now())

    task = asyncio.ensure_future(sleeper())
    await world.advance(2.9)
    assert (log, world.now()) == ([], 2.9)
    await world.advance(10)
    assert log == [3.0, 5.0]
    assert (world.now(), world.time(), world.pending) == (12.9, 1_700_000_012.9, 0)
    await task


async def test_woken_tasks_come_to_rest_before_time_moves_on() -> None:
    """A chain of a hundred hand-overs, started by one timer, ends before the next timer rings."""
    world, log = FakeWorld(), []

    async def chain(left: int) -> None:
        if left:
            await asyncio.ensure_future(chain(left - 1))
        else:
            log.append(world.now())

    world.after(1, lambda: tasks.append(asyncio.ensure_future(chain(100))))
    world.after(1.001, lambda: log.append("next"))
    tasks: list[asyncio.Future[None]] = []
    await world.advance(2)
    assert log == [1.0, "next"]
    await asyncio.gather(*tasks)


@settings(deadline=None)
@given(delays=st.lists(st.floats(0, 100), max_size=20))
def test_timers_ring_in_order_of_time_and_then_of_call(delays: list[float]) -> None:
    async def run() -> None:
        world, rung = FakeWorld(), []
        for number, delay in enumerate(delays):
            world.after(delay, lambda number=number: rung.append((world.now(), number)))
        await world.advance(100)
        assert rung == sorted((delay, number) for number, delay in enumerate(delays))

    asyncio.run(run())


async def test_cancelled_timers_and_sleepers_are_gone() -> None:
    world = FakeWorld()
    world.after(1, lambda: pytest.fail("was cancelled"))()
    task = asyncio.ensure_future(world.sleep(1))
    await world.advance(0)
    assert world.pending == 1
    task.cancel()
    await asyncio.wait({task})
    assert world.pending == 0
    await world.advance(5)


async def test_a_stalled_process_rings_late_and_time_never_goes_back() -> None:
    world, rung = FakeWorld(), []
    world.after(1, lambda: rung.append(world.now()))
    world.stall(10)
    assert rung == []
    await world.advance(1)
    assert (rung, world.now()) == ([10.0], 11.0)


async def test_an_hour_of_ticks_is_quick() -> None:
    world, ticks = FakeWorld(), []

    async def tick() -> None:
        while True:
            await world.sleep(1)
            ticks.append(world.now())

    task = asyncio.ensure_future(tick())
    await world.advance(3600)
    assert len(ticks) == 3600
    task.cancel()


async def test_a_busy_loop_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapless.testing.world.SPIN_LIMIT", 100)
    world = FakeWorld()

    async def spin() -> None:
        while True:
            await world.sleep(0)

    task = asyncio.ensure_future(spin())
    with pytest.raises(RuntimeError, match="keep running"):
        await world.advance(1)
    task.cancel()


def test_dice_repeat_by_seed() -> None:
    def rolls(seed: int) -> list[float]:
        return [world.random() for world in [FakeWorld(seed)] for _ in range(1000)]

    assert rolls(1) == rolls(1) != rolls(2)
    assert all(0 <= roll < 1 for roll in rolls(3))
    assert max(Counter(int(roll * 10) for roll in rolls(4)).values()) < 150
    world = FakeWorld()
    tokens = [world.token() for _ in range(1000)]
    assert len(set(tokens)) == 1000
    assert all(len(token) == 8 and int(token, 16) >= 0 for token in tokens)


async def test_processes_are_recorded_and_end_when_told() -> None:
    world = FakeWorld()
    process = await world.spawn(["serve", "app"], env={"A": "1"}, cwd=Path("/srv"), output=Path("log"), pass_fds=[3])
    assert world.processes == [process]
    assert (process.spawned.argv, process.spawned.env, process.spawned.cwd) == (
        ("serve", "app"),
        {"A": "1"},
        Path("/srv"),
    )
    assert (process.spawned.output, process.spawned.pass_fds) == (Path("log"), (3,))
    waiting = asyncio.ensure_future(process.wait())
    process.kill(signal.SIGTERM)
    await world.settle()
    assert process.signals == [signal.SIGTERM]
    assert not waiting.done()
    process.exit(0)
    process.exit(1)
    process.kill(signal.SIGKILL)
    assert (await waiting, process.signals) == (0, [signal.SIGTERM])


async def test_processes_can_be_scripted() -> None:
    world = FakeWorld()

    def script(process: FakeProcess) -> None:
        if process.spawned.argv == ("absent",):
            raise FileNotFoundError(process.spawned.argv[0])
        process.on_signal = lambda number: process.exit(number + 100)

    world.script = script
    with pytest.raises(FileNotFoundError):
        await world.spawn(["absent"], env={}, cwd=Path())
    obedient = await world.spawn(["a"], env={}, cwd=Path())
    obedient.kill(signal.SIGTERM)
    killed = await world.spawn(["b"], env={}, cwd=Path())
    killed.kill(signal.SIGKILL)
    assert (await obedient.wait(), await killed.wait()) == (115, -9)
    assert obedient.pid != killed.pid


async def test_time_waits_for_threads_that_it_is_told_of() -> None:
    world, order = FakeWorld(), list[str]()
    gate = threading.Event()
    work = asyncio.get_running_loop().run_in_executor(None, gate.wait)
    work.add_done_callback(lambda _: order.append("thread"))
    world.wait_for(lambda: not work.done())
    world.after(1.0, lambda: order.append("timer"))
    asyncio.get_running_loop().call_later(0.01, gate.set)
    await world.advance(2.0)
    assert order == ["thread", "timer"]


@given(st.integers(0, 2**64 - 1), st.integers(1, 200))
def test_bits_are_as_many_as_were_asked_for(seed: int, count: int) -> None:
    world = FakeWorld(seed)
    found = [world.bits(count) for _ in range(40)]
    assert all(0 <= number < 2**count for number in found)
    assert any(number >> (count - 1) for number in found)
    assert all(0 <= RealWorld().bits(count) < 2**count for _ in range(3))

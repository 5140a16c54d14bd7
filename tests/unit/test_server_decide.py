"""The generations of workers, under any order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gapless.server.generations.decide import due, serving
from gapless.server.generations.generation import (
    Action,
    Beat,
    Drain,
    Dump,
    Exited,
    Finish,
    Kill,
    Left,
    Limits,
    Prepared,
    Recycling,
    Refused,
    Reload,
    Replaced,
    Restart,
    Retire,
    Serving,
    Stage,
    Start,
    Stop,
    Tick,
    TooBusy,
)
from gapless.server.generations.losses import BACKOFF_LAST_S, STABLE_S, backoff
from tests.unit.server_kernel import LIMITS, RECYCLING, STEPS, Kernel, Step, booted


@given(st.integers(1, 3), st.integers(1, 3), LIMITS, RECYCLING, STEPS)
def test_any_order_of_events_ends_with_the_wanted_workers_serving(
    wanted: int, abreast: int, limits: Limits, recycling: Recycling, steps: list[Step]
) -> None:
    kernel = booted(wanted, abreast, limits, recycling)
    for step in steps:
        kernel.step(*step)
    kernel.settle()
    state = kernel.state
    assert kernel.serving(state.current) == state.wanted == len(kernel.alive) == serving(state) == len(state.slots)
    assert (state.coming, state.before, state.back) == (0, 0, 0)
    assert kernel.answered == kernel.asked


@given(st.integers(1, 3), LIMITS, STEPS, STEPS)
def test_a_stop_ends_everything_whatever_else_happens(
    wanted: int, limits: Limits, before: list[Step], after: list[Step]
) -> None:
    kernel = Kernel(wanted, 2, limits)
    for step in before:
        kernel.step(*step)
    kernel.feed(Stop(15))
    started = sum(isinstance(action, Start) for action in kernel.seen)
    for step in after:
        kernel.step(*step)
    kernel.settle()
    assert not kernel.alive
    assert sum(isinstance(action, Finish) for action in kernel.seen) == 1
    assert sum(isinstance(action, Start) for action in kernel.seen) == started
    assert kernel.answered <= kernel.asked


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_without_crashes_a_reload_never_lowers_the_number_of_serving_workers(
    wanted: int, abreast: int, data: st.DataObject
) -> None:
    kernel = booted(wanted, abreast)
    kernel.feed(Reload())
    while kernel.state.coming:
        moves = {"starting": "prepared", "carrying": "carried", "committed": "serving"}
        key = data.draw(st.sampled_from([key for key, phase in kernel.alive.items() if phase in moves]))
        kernel.step(moves[kernel.alive[key]], sorted(kernel.alive).index(key), 0.01)
        assert sum(phase == "serving" for phase in kernel.alive.values()) >= wanted
    kernel.settle()
    assert kernel.serving(2) == wanted == len(kernel.alive)


@given(st.integers(0, 10_000))
def test_backoff_is_bounded_and_never_shrinks(failures: int) -> None:
    assert 0 <= backoff(failures) <= backoff(failures + 1) <= BACKOFF_LAST_S


def test_backoff_is_0_then_doubles_from_100_ms_to_30_s() -> None:
    assert [backoff(n) for n in range(4)] == [0.0, 0.1, 0.2, 0.4]
    assert backoff(50) == BACKOFF_LAST_S


def crash(kernel: Kernel) -> list[Action]:
    key = next(iter(kernel.alive))
    del kernel.alive[key]
    return kernel.feed(Exited(key, "killed by SIGKILL"))


def test_a_crashed_worker_is_replaced_in_the_same_moment() -> None:
    actions = crash(booted())
    assert [type(action) for action in actions] == [Restart, Start]
    assert actions[0] == Restart(1, "killed by SIGKILL", 0.0)


def test_crashes_in_a_row_wait_longer_until_a_worker_has_been_stable() -> None:
    kernel = booted(1)
    delays = []
    for _ in range(10):
        delays += [action.delay_s for action in crash(kernel) if isinstance(action, Restart)]
        kernel.settle()
    assert delays == [backoff(n) for n in range(10)]
    kernel.now += STABLE_S
    assert Restart(11, "killed by SIGKILL", 0.0) in crash(kernel)


def test_a_reload_loads_no_more_workers_at_once_than_it_may() -> None:
    kernel = booted(3, abreast=1)
    assert kernel.feed(Reload()) == [Start(4, 2, 0)]
    kernel.move(4, "starting", "prepared", Prepared(4))
    assert kernel.seen[-1] == Start(5, 2, 1)
    assert Kernel(3, abreast=1).alive.keys() == {1, 2, 3}


def test_a_second_reload_is_told_that_one_is_under_way() -> None:
    kernel = booted()
    kernel.feed(Reload())
    assert kernel.feed(Reload()) == [TooBusy("generation 2 is being started")]


def test_a_reload_is_done_when_the_last_of_the_former_generation_has_stopped_accepting() -> None:
    kernel = booted()
    kernel.feed(Reload())
    for key in (3, 4):
        kernel.move(key, "starting", "prepared", Prepared(key))
    for key in (3, 4):
        kernel.move(key, "committed", "serving", Serving(key))
    assert kernel.seen[-3:] == [Retire(1), Retire(2), Stage(2, "serving", 0.0)]
    kernel.stopped(1)
    assert kernel.feed(Reload()) == [TooBusy("generation 2 is still taking over from 1")]
    kernel.now += 0.5
    kernel.stopped(2)
    assert kernel.seen[-2:] == [Stage(2, "stopped", 0.5), Replaced(2, 1)]


def test_a_reload_before_the_first_generation_serves_is_busy() -> None:
    assert Kernel(1).feed(Reload()) == [TooBusy("the server is still starting")]


def test_a_crash_of_the_coming_generation_kills_the_rest_of_it_and_nobody_else() -> None:
    kernel = booted()
    kernel.feed(Reload())
    del kernel.alive[3]
    actions = kernel.feed(Exited(3, "exit status 1", 4))
    assert actions == [Kill(4, "exit status 1"), Refused(2, "exit status 1", 3)]
    kernel.settle()
    assert kernel.serving(1) == 2


def test_a_coming_generation_that_hangs_is_refused_at_its_limit() -> None:
    kernel = booted()
    kernel.feed(Reload())
    kernel.now += Limits().start_s
    actions = kernel.feed(Tick())
    assert Refused(2, "not ready within its start limit", 3) in actions
    assert sum(isinstance(action, Refused) for action in actions) == 1


def test_the_second_generation_number_after_a_refusal_is_new() -> None:
    kernel = booted(1)
    kernel.feed(Reload())
    del kernel.alive[2]
    kernel.feed(Exited(2, "boom"))
    assert kernel.feed(Reload()) == [Start(3, 3, 0)]


def test_a_boot_that_fails_ends_with_the_workers_code() -> None:
    kernel = Kernel(2)
    del kernel.alive[1]
    assert Kill(2, "no such module") in kernel.feed(Exited(1, "no such module", 4))
    kernel.settle()
    assert kernel.seen[-1] == Finish(4, "no such module")


def test_a_boot_that_is_never_ready_ends_with_5() -> None:
    kernel = Kernel(1)
    kernel.now += Limits().start_s
    kernel.feed(Tick())
    kernel.settle()
    assert kernel.seen[-1] == Finish(5, "not ready within its start limit")


def test_the_first_signal_drains_and_the_second_kills() -> None:
    kernel = booted()
    assert kernel.feed(Stop(15)) == [Drain(1), Drain(2)]
    assert kernel.feed(Stop(2)) == [Kill(1, "stopped at once"), Kill(2, "stopped at once")]
    kernel.settle()
    assert kernel.seen[-1] == Finish(130, "stopped at once")


def test_a_drained_server_ends_with_0() -> None:
    kernel = booted()
    kernel.feed(Stop(15))
    kernel.settle()
    assert kernel.seen[-1] == Finish(0, "")


def test_a_stop_during_a_reload_answers_the_reload() -> None:
    kernel = booted(1)
    kernel.feed(Reload())
    assert Refused(2, "the server was told to stop", 0) in kernel.feed(Stop(15))


def test_a_silent_worker_shows_its_stacks_is_killed_and_replaced() -> None:
    kernel = booted(1)
    kernel.now = due(kernel.state)
    dump, *rest = kernel.feed(Tick())
    assert isinstance(dump, Dump)
    assert "blocked" in dump.reason
    assert [type(action) for action in rest] == [Restart, Start]
    kernel.tick(Limits().dump_s)
    assert kernel.seen[-1] == Kill(dump.key, dump.reason)
    kernel.settle()
    assert kernel.serving(1) == 1


def test_a_supervisor_that_overslept_judges_nobody() -> None:
    kernel = booted(1)
    kernel.now = due(kernel.state) + 100
    assert kernel.feed(Tick()) == []


def test_a_worker_that_does_not_drain_is_killed() -> None:
    kernel = booted(1)
    kernel.feed(Stop(15))
    for _ in range(31):
        kernel.now += 1
        kernel.feed(Beat(1))
    kernel.now += 1
    assert kernel.feed(Tick()) == [Kill(1, "did not end within its drain limit")]


def test_a_worker_that_leaves_by_itself_is_replaced_before_it_has_gone() -> None:
    kernel = booted(1)
    kernel.alive[1] = "leaving"
    assert kernel.feed(Left(1)) == [Start(2, 1, 0)]

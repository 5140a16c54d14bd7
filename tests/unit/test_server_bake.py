"""The bake time: a new generation may fail for a while after it serves, and the former one comes back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gapless.server.generations.generation import (
    Beat,
    Carried,
    Carry,
    Commit,
    Kill,
    Left,
    Limits,
    Pause,
    Prepared,
    Recall,
    Refused,
    Reload,
    Replaced,
    Restart,
    Retire,
    Return,
    Serving,
    Stage,
    Stop,
    TooBusy,
)
from tests.unit.server_kernel import Kernel, booted

BAKE_S = 10.0


def baking(wanted: int = 2) -> Kernel:
    """Workers 1 … of generation 1 are paused, those after them serve."""
    kernel = booted(wanted, wanted, Limits(bake_s=BAKE_S))
    kernel.reload()
    for key in range(wanted + 1, 2 * wanted + 1):
        kernel.move(key, "starting", "prepared", Prepared(key))
    for key in range(wanted + 1, 2 * wanted + 1):
        kernel.move(key, "committed", "serving", Serving(key))
    for key in range(1, wanted + 1):
        kernel.stopped(key)
    assert kernel.serving(2) == wanted
    return kernel


def alive(kernel: Kernel) -> None:
    for key in list(kernel.alive):
        kernel.beat(key)


def test_the_former_generation_waits_until_the_bake_time_is_over() -> None:
    kernel = baking()
    assert [action for action in kernel.seen if isinstance(action, Pause)] == [Pause(1), Pause(2)]
    assert kernel.reload() == [TooBusy("generation 2 is in its bake time")]
    kernel.tick(BAKE_S - 0.1)
    alive(kernel)
    assert Replaced(2, 1) not in kernel.seen
    kernel.tick(0.2)
    assert kernel.seen[-4:] == [Retire(1), Retire(2), Stage(2, "baked", BAKE_S + 0.1), Replaced(2, 1)]


def test_a_crash_brings_the_former_generation_back_and_then_the_failed_one_leaves() -> None:
    kernel = baking()
    actions = kernel.exit(3, "killed by SIGSEGV")
    assert actions == [Return(2, 1, "killed by SIGSEGV", 3), Recall(1), Recall(2)]
    assert kernel.reload() == [TooBusy("generation 1 is coming back for 2")]
    kernel.move(1, "committed", "serving", Serving(1))
    assert kernel.alive[4] == "serving"
    kernel.move(2, "committed", "serving", Serving(2))
    assert kernel.seen[-2:] == [Retire(4), Refused(2, "killed by SIGSEGV", 0)]
    kernel.settle()
    assert kernel.serving(1) == 2 == len(kernel.alive)


def test_unreadiness_of_the_new_generation_alone_brings_the_former_one_back() -> None:
    kernel = baking(1)
    kernel.unready |= {1, 2}
    kernel.beat(1)
    kernel.beat(2)
    assert kernel.state.before == 1  # what both suffer from is not the new code
    kernel.unready.clear()
    alive(kernel)
    assert kernel.feed(Beat(2, "disk: full")) == [Return(2, 1, "it became unready: disk: full", 2), Recall(1)]


def test_a_crash_after_the_former_generation_has_crashed_as_well_is_an_ordinary_one() -> None:
    kernel = baking(1)
    assert kernel.exit(1) == []
    assert Restart(2, "crashed", 0.0) in kernel.exit(2)
    kernel.settle()
    assert kernel.serving(2) == 1


def test_a_worker_that_is_told_to_leave_in_the_bake_time_is_nobodys_failure() -> None:
    kernel = baking(1)
    kernel.move(2, "serving", "leaving", Left(2))
    assert kernel.feed(Beat(2, "it is draining")) == []
    kernel.settle()
    assert kernel.state.current == 2
    assert kernel.serving(2) == 1


def test_a_failed_recall_is_made_up_for() -> None:
    kernel = baking(2)
    kernel.exit(4)
    kernel.exit(2)  # one of those that come back
    kernel.settle()
    assert kernel.serving(1) == 2
    assert kernel.state.back == 0


def test_a_stop_while_the_former_generation_comes_back_answers_the_reload() -> None:
    kernel = baking(1)
    kernel.exit(2)
    assert Refused(2, "the server was told to stop", 0) in kernel.feed(Stop(15))
    kernel.settle()
    assert not kernel.alive


@given(st.integers(1, 3), st.data())
def test_whoever_fails_in_the_bake_time_there_are_never_fewer_able_workers_than_without_us(
    wanted: int, data: st.DataObject
) -> None:
    kernel = baking(wanted)
    for _ in range(6):
        serving = [key for key, phase in kernel.alive.items() if phase == "serving"]
        if serving and data.draw(st.booleans()):
            kernel.exit(data.draw(st.sampled_from(serving)))
        before = kernel.all_serving()
        kernel.step(data.draw(st.sampled_from(["serving", "prepared", "unready", "stopped"])), data.draw(_PICKS), 0.1)
        assert kernel.all_serving() >= min(before, wanted)
    kernel.settle()
    assert kernel.all_serving() == wanted == len(kernel.alive)


_PICKS: Any = st.integers(0, 9)


def carrying(limits: Limits) -> Kernel:
    kernel = booted(1, 1, limits)
    kernel.feed(Reload())
    kernel.alive[2] = "prepared"
    assert kernel.feed(Prepared(2, carries=True))[-1] == Carry(2, 1)
    return kernel


def test_state_is_carried_between_prepared_and_commit() -> None:
    kernel = carrying(Limits())
    kernel.now += 0.25
    assert kernel.feed(Carried(2)) == [Commit(2), Stage(2, "committed", 0.25)]


def test_state_that_does_not_come_holds_nothing_up() -> None:
    kernel = carrying(Limits())
    kernel.tick(Limits().carry_s)
    assert Commit(2) in kernel.seen
    assert kernel.feed(Carried(2)) == []


def test_a_source_that_is_lost_refuses_nothing() -> None:
    kernel = carrying(Limits())
    kernel.exit(1)
    kernel.feed(Carried(2))
    kernel.settle()
    assert kernel.serving(2) == 1
    assert not any(isinstance(action, Refused | Kill) and action[0] == 2 for action in kernel.seen)

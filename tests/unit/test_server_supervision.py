"""Crash limits, recycling and scaling, purely."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gapless.server.generations.decide import due
from gapless.server.generations.generation import (
    NEVER,
    Beat,
    Commit,
    Exited,
    Finish,
    GivenUp,
    Limits,
    NotRecycled,
    Prepared,
    Recycle,
    Recycled,
    Recycling,
    Refused,
    Restart,
    Retire,
    Scale,
    Scaled,
    Serving,
    Start,
    Tired,
    TooBusy,
)
from gapless.server.generations.losses import STABLE_S
from gapless.server.generations.recycle import JITTER, part
from tests.unit.server_kernel import Kernel, booted

LIMITS = Limits(crashes=3)
WORN = Recycling(requests=1000)


def crash_often(kernel: Kernel, slot: int, times: int) -> None:
    for _ in range(times):
        key = next(w.key for w in kernel.state.workers if w.slot == slot and w.generation == kernel.state.current)
        kernel.exit(key, "killed by SIGSEGV")
        for _ in range(10):
            kernel.wait()
            for other in sorted(kernel.alive):
                kernel.obey(other)


def test_a_slot_that_crashes_again_and_again_is_given_up_and_the_rest_carries_on() -> None:
    kernel = booted(2, 2, LIMITS)
    crash_often(kernel, 1, 3)
    assert kernel.seen[-1] == GivenUp(4, "killed by SIGSEGV", 1)
    kernel.settle()
    assert kernel.serving(1) == 1
    kernel.reload()
    kernel.settle()
    assert kernel.serving(2) == 2


def test_a_server_ends_with_the_reason_when_all_are_given_up() -> None:
    kernel = booted(2, 2, LIMITS)
    crash_often(kernel, 0, 3)
    crash_often(kernel, 1, 3)
    reason = "every worker crashed 3 times in a row, the last one: killed by SIGSEGV"
    assert kernel.seen[-1] == Finish(4, reason)


def test_a_coming_generation_gets_its_chance_before_the_server_ends() -> None:
    kernel = booted(1, 1, LIMITS)
    crash_often(kernel, 0, 2)
    kernel.reload()
    key = next(worker.key for worker in kernel.state.workers if worker.generation == 1)
    assert isinstance(kernel.exit(key)[0], GivenUp)
    assert not kernel.state.leaving
    kernel.settle()
    assert kernel.serving(2) == 1


def test_and_when_that_is_refused_the_server_ends() -> None:
    kernel = booted(1, 1, LIMITS)
    crash_often(kernel, 0, 2)
    kernel.reload()
    kernel.exit(next(worker.key for worker in kernel.state.workers if worker.generation == 1))
    kernel.exit(next(worker.key for worker in kernel.state.workers if worker.generation == 2))
    assert kernel.seen[-1] == Finish(4, "every worker crashed 3 times in a row, the last one: crashed")


def test_crashes_with_stable_times_between_them_give_nothing_up() -> None:
    kernel = booted(1, 1, LIMITS)
    for _ in range(5):
        kernel.tick(STABLE_S)
        crash_often(kernel, 0, 1)
    assert not any(isinstance(action, GivenUp) for action in kernel.seen)


def test_a_worn_worker_leaves_when_a_fresh_one_serves_in_its_place() -> None:
    kernel = booted(1, 1, recycling=WORN)
    assert kernel.feed(Beat(1, "", 899)) == []
    assert kernel.feed(Beat(1, "", 1000)) == [Recycle(1, "it has answered 1000 requests"), Start(2, 1, 0)]
    kernel.move(2, "starting", "prepared", Prepared(2))
    assert kernel.alive[1] == "serving"
    kernel.move(2, "committed", "serving", Serving(2))
    assert kernel.seen[-2:] == [Retire(1), Recycled(1)]


def test_worn_workers_are_replaced_one_after_the_other() -> None:
    kernel = booted(3, 3, recycling=WORN)
    for key in (1, 2, 3):
        kernel.requests[key] = 2000
        kernel.beat(key)
    assert [key for key, phase in kernel.alive.items() if phase == "starting"] == [4]
    kernel.settle()
    assert sorted(kernel.alive) == [4, 5, 6]


def test_a_fresh_worker_that_fails_changes_nothing_and_is_tried_again_later() -> None:
    kernel = booted(1, 1, recycling=WORN)
    kernel.feed(Beat(1, "", 1000))
    assert kernel.exit(2, "no licence") == [NotRecycled(1, "no licence", 0.1)]
    assert kernel.feed(Beat(1, "", 1000)) == []
    kernel.now += 0.1
    assert kernel.feed(Beat(1, "", 1001))[1] == Start(3, 1, 0)


def test_a_worn_worker_that_crashes_is_replaced_by_the_fresh_one_on_its_way() -> None:
    kernel = booted(1, 1, recycling=WORN)
    kernel.feed(Beat(1, "", 1000))
    assert kernel.exit(1) == [Restart(1, "crashed", 0.0)]
    kernel.settle()
    assert sorted(kernel.alive) == [2]


def test_age_recycles_without_any_traffic() -> None:
    kernel = booted(1, 1, recycling=Recycling(age_s=60.0))
    assert (1 - JITTER) * 60 <= due(kernel.state._replace(workers=_deaf(kernel))) <= 60
    kernel.now += 59
    kernel.feed(Beat(1))
    kernel.tick(2)
    assert kernel.alive[2] == "starting"


def _deaf(kernel: Kernel) -> tuple[object, ...]:
    return tuple(worker._replace(beat_at=NEVER) for worker in kernel.state.workers)


def test_a_worker_that_is_to_leave_serves_until_another_one_does() -> None:
    kernel = booted(1, 1)
    assert kernel.feed(Tired(1)) == [Recycle(1, "it was sent SIGTERM"), Start(2, 1, 0)]
    kernel.settle()
    assert sorted(kernel.alive) == [2]


def test_a_worker_that_is_to_leave_has_to_wait_for_the_end_of_a_reload() -> None:
    kernel = booted(1, 1)
    kernel.reload()
    assert kernel.feed(Tired(1)) == []
    assert Refused(2, "crashed", 2) in kernel.exit(2)
    assert kernel.alive[3] == "starting"
    kernel.settle()
    assert sorted(kernel.alive) == [3]


def test_memory_has_a_limit_without_jitter() -> None:
    kernel = booted(1, 1, recycling=Recycling(memory=1 << 20))
    assert kernel.feed(Beat(1, "", 0, 1 << 20)) == []
    assert kernel.feed(Beat(1, "", 0, 5 << 20))[0] == Recycle(1, "it uses 5 MiB of memory")


@given(st.integers(1, 10_000))
def test_jitter_spreads_neighbours(key: int) -> None:
    assert 1 - JITTER < part(key) <= 1
    assert abs(part(key) - part(key + 1)) > JITTER / 4


def test_scaling_up_loads_no_more_at_once_than_it_may_and_says_when_all_serve() -> None:
    kernel = booted(1, 1)
    assert kernel.feed(Scale(3)) == [Start(2, 1, 1)]
    kernel.settle()
    assert kernel.seen[-1] == Scaled(3)
    assert kernel.serving(1) == 3


def test_scaling_down_retires_the_last() -> None:
    kernel = booted(3, 1)
    assert kernel.feed(Scale(1)) == [Retire(2), Retire(3), Scaled(1)]
    kernel.settle()
    assert sorted(kernel.alive) == [1]


def test_a_reload_after_scaling_starts_as_many() -> None:
    kernel = booted(1, 4)
    kernel.feed(Scale(4))
    kernel.settle()
    kernel.reload()
    kernel.settle()
    assert kernel.serving(2) == 4


def test_scaling_in_the_middle_of_a_reload_is_busy() -> None:
    kernel = booted(1)
    kernel.reload()
    assert kernel.feed(Scale(2)) == [TooBusy("generation 2 is being started")]


def test_a_worker_of_a_slot_that_is_gone_is_not_replaced() -> None:
    kernel = booted(2)
    kernel.feed(Scale(1))
    assert kernel.feed(Exited(2, "crashed")) == []
    assert not any(isinstance(action, Commit) and action.key > 2 for action in kernel.seen)

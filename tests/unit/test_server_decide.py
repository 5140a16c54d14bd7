"""The generations of workers, under any order of events."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.server.decide import BACKOFF_LAST_S, STABLE_S, backoff, decide, due, serving
from gapless.server.generation import (
    NEVER,
    Action,
    Beat,
    Boot,
    Commit,
    Drain,
    Event,
    Exited,
    Finish,
    Kill,
    Left,
    Limits,
    Prepared,
    Refused,
    Reload,
    Replaced,
    Restart,
    Retire,
    Serving,
    Start,
    State,
    Stop,
    Tick,
    TooBusy,
)


@dataclass
class Kernel:
    """Processes as the decider's actions leave them; says which events are possible."""

    wanted: int
    abreast: int = 2
    now: float = 0.0
    state: State = field(init=False)
    alive: dict[int, str] = field(default_factory=dict)
    """key → starting | prepared | committed | serving | leaving | killed"""
    generation: dict[int, int] = field(default_factory=dict)
    seen: list[Action] = field(default_factory=list)
    asked: int = 0
    answered: int = 0

    def __post_init__(self) -> None:
        self.state = State(self.wanted, Limits(), self.abreast)
        self.feed(Boot())

    def feed(self, event: Event) -> list[Action]:
        self.asked += isinstance(event, Reload) and not self.state.ended
        self.state, actions = decide(self.state, event, self.now)
        for action in actions:
            self.perform(action)
        self.seen += actions
        return actions

    def perform(self, action: Action) -> None:  # noqa: C901 - one case per action
        match action:
            case Start(key, generation):
                assert key not in self.alive
                self.alive[key], self.generation[key] = "starting", generation
                if generation == self.state.coming and self.state.current:
                    assert self.loading(generation) <= self.abreast
            case Commit(key):
                assert self.alive[key] == "prepared"
                self.alive[key] = "committed"
            case Retire(key) | Drain(key) if self.alive[key] == "leaving":
                return  # reminded
            case Retire(key) if self.alive[key] == "killed":
                return  # reminded in vain
            case Retire(key) | Drain(key):
                assert self.alive[key] in ("committed", "serving")
                if isinstance(action, Retire) and self.alive[key] == "serving":
                    self.check_retire(key)
                self.alive[key] = "leaving"
            case Kill(key, _):
                assert key in self.alive
                self.alive[key] = "killed"
            case Replaced(generation, before):
                self.answered += before > 0
                assert self.serving(generation) >= self.wanted
            case Refused():
                self.answered += self.state.current > 0
            case TooBusy():
                self.answered += 1
            case Finish():
                assert not self.alive

    def check_retire(self, key: int) -> None:
        """A serving worker is only sent away when its place is taken, or it belongs to a refused generation."""
        successor = self.state.current
        assert successor > self.generation[key] or self.generation[key] > successor
        if successor > self.generation[key]:
            assert self.serving(successor) >= self.wanted

    def loading(self, generation: int) -> int:
        return sum(p == "starting" and self.generation[k] == generation for k, p in self.alive.items())

    def serving(self, generation: int) -> int:
        return sum(p == "serving" and self.generation[k] == generation for k, p in self.alive.items())

    def move(self, key: int, before: str, after: str, event: Event) -> None:
        if self.alive.get(key) == before:
            self.alive[key] = after
            self.feed(event)

    def step(self, what: str, pick: int, dt: float) -> None:  # noqa: C901 - one case per event
        self.now += dt
        if due(self.state) <= self.now:
            self.feed(Tick())
        keys = sorted(self.alive)
        key = keys[pick % len(keys)] if keys else 0
        match what:
            case "prepared":
                self.move(key, "starting", "prepared", Prepared(key))
            case "serving":
                self.move(key, "committed", "serving", Serving(key))
            case "beat":
                self.feed(Beat(key))
            case "exit" if keys:
                del self.alive[key]
                self.feed(Exited(key, "crashed", 4))
            case "left":
                self.move(key, "serving", "leaving", Left(key))
            case "reload":
                self.feed(Reload())
            case "stop":
                self.feed(Stop(15))

    def settle(self) -> None:
        """Everybody does what is asked of it, until nothing moves."""
        for _ in range(400):
            before = (self.state, dict(self.alive))
            for key, phase in sorted(self.alive.items()):
                if phase == "starting":
                    self.move(key, "starting", "prepared", Prepared(key))
                elif phase == "committed":
                    self.move(key, "committed", "serving", Serving(key))
                elif phase in ("leaving", "killed"):
                    del self.alive[key]
                    self.feed(Exited(key, "ended", 0))
                else:
                    self.feed(Beat(key))
            if any(slot.retry_at < NEVER for slot in self.state.slots):
                self.now = max(self.now, min(s.retry_at for s in self.state.slots))
                self.feed(Tick())
            elif before == (self.state, self.alive):
                return
        raise AssertionError("it never settles")


def booted(wanted: int = 2, abreast: int = 2) -> Kernel:
    kernel = Kernel(wanted, abreast)
    kernel.settle()
    assert kernel.serving(1) == wanted
    return kernel


Step = tuple[str, int, float]
WHATS = st.sampled_from(["prepared"] * 4 + ["serving"] * 4 + ["beat", "exit", "left", "reload", "reload", "tick"])
STEPS = st.lists(st.tuples(WHATS, st.integers(0, 20), st.sampled_from([0.0, 0.01, 0.2, 3.0, 12.0, 40.0])), max_size=40)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), STEPS)
def test_any_order_of_events_ends_with_the_wanted_workers_serving(wanted: int, abreast: int, steps: list[Step]) -> None:
    kernel = booted(wanted, abreast)
    for step in steps:
        kernel.step(*step)
    kernel.settle()
    assert kernel.serving(kernel.state.current) == wanted == len(kernel.alive) == serving(kernel.state)
    assert kernel.state.coming == 0
    assert kernel.answered == kernel.asked


@settings(deadline=None)
@given(st.integers(1, 3), STEPS, STEPS)
def test_a_stop_ends_everything_whatever_else_happens(wanted: int, before: list[Step], after: list[Step]) -> None:
    kernel = Kernel(wanted)
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


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_without_crashes_a_reload_never_lowers_the_number_of_serving_workers(
    wanted: int, abreast: int, data: st.DataObject
) -> None:
    kernel = booted(wanted, abreast)
    kernel.feed(Reload())
    while kernel.state.coming:
        moving = [key for key, phase in kernel.alive.items() if phase in ("starting", "committed")]
        key = data.draw(st.sampled_from(moving))
        kernel.step("prepared" if kernel.alive[key] == "starting" else "serving", sorted(kernel.alive).index(key), 0.01)
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
    assert kernel.feed(Reload()) == [Start(4, 2)]
    kernel.move(4, "starting", "prepared", Prepared(4))
    assert kernel.seen[-1] == Start(5, 2)
    assert Kernel(3, abreast=1).alive.keys() == {1, 2, 3}


def test_a_second_reload_is_told_that_one_is_under_way() -> None:
    kernel = booted()
    kernel.feed(Reload())
    assert kernel.feed(Reload()) == [TooBusy("generation 2 is being started")]


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
    assert kernel.feed(Reload()) == [Start(3, 3)]


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


def test_a_silent_worker_is_killed_and_replaced() -> None:
    kernel = booted(1)
    kernel.now = due(kernel.state)
    kill, *rest = kernel.feed(Tick())
    assert isinstance(kill, Kill)
    assert "blocked" in kill.reason
    assert [type(action) for action in rest] == [Restart, Start]
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
    assert kernel.feed(Left(1)) == [Start(2, 1)]

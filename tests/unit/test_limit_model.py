"""Places, queue and shedding against a plain list of who is where."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gapless.resilience.limit_adaptive import Adaptive, Gradient
from gapless.resilience.limit_shed import Codel, Fate, Queue, Standing, Waiter
from gapless.resilience.limit_state import LimitState


class Compared(RuleBasedStateMachine):
    """Plain FIFO by class, without CoDel: every place is somebody's, and the order is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.size, self.now = 2, 3, 0.0
        self.state = LimitState(self.limit, Queue(self.size, None, lifo=False))
        self.inside = 0
        self.line: list[Waiter] = []
        self.granted: list[Waiter] = []
        self.woken: list[Waiter] = []

    def heard(self, sealed: list[Waiter]) -> None:
        self.woken += sealed

    @rule(rank=st.integers(0, 2))
    def arrive(self, rank: int) -> None:
        self.now += 0.001
        try:
            self.state.places.pop()
        except IndexError:
            self.queue_up(rank)
        else:
            assert self.inside < self.limit
            self.inside += 1

    def queue_up(self, rank: int) -> None:
        assert self.inside >= self.limit
        waiter = Waiter(rank, self.now, lambda: None)
        self.heard(self.state.join(waiter, self.now))
        if len(self.line) >= self.size:
            lower = [each for each in self.line if each.rank > rank]
            if not lower:
                assert waiter.fate is Fate.FULL
                return
            out = max(lower, key=lambda each: (each.rank, each.since))
            assert out.fate is Fate.EVICTED
            assert out in self.woken
            self.line.remove(out)
        assert waiter.fate is Fate.WAITING
        self.line.append(waiter)

    @precondition(lambda self: self.inside)
    @rule()
    def leave(self) -> None:
        self.state.places.append(None)
        self.inside -= 1
        if self.state.attention:
            self.heard(self.state.hand_on(self.now))
        self.settle()

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 9), fate=st.sampled_from([Fate.GONE, Fate.LATE]))
    def give_up(self, which: int, fate: Fate) -> None:
        waiter = self.line.pop(which % len(self.line))
        self.heard(self.state.abandon(waiter, fate, self.now))
        assert waiter.fate is fate
        self.settle()

    @precondition(lambda self: self.granted)
    @rule(which=st.integers(0, 9))
    def cancelled_when_granted(self, which: int) -> None:
        waiter = self.granted.pop(which % len(self.granted))
        self.inside -= 1
        self.heard(self.state.abandon(waiter, Fate.GONE, self.now))
        self.settle()

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        self.limit = limit
        self.heard(self.state.resize(limit, self.now))
        self.settle()

    def settle(self) -> None:
        """Whoever stands first in the most important class has the free place."""
        while self.inside < self.limit and self.line:
            first = min(self.line, key=lambda each: (each.rank, each.since))
            self.line.remove(first)
            assert first.fate is Fate.GRANTED
            assert first in self.woken
            self.granted.append(first)
            self.inside += 1

    @invariant()
    def agree(self) -> None:
        assert self.state.busy == self.inside
        assert self.state.queue.waiting == len(self.line)
        assert all(each.fate is Fate.WAITING for each in self.line)
        assert len(self.woken) == len(set(self.woken))


Compared.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestLimitAgainstPlain = Compared.TestCase


def test_a_burst_does_not_make_a_queue_stand_but_a_backlog_does() -> None:
    standing = Standing(Codel(0.005, 0.1))
    for step in range(20):  # 0.2 s with waits of 50 ms, but once per interval somebody does not wait
        standing.see(0.0 if step % 10 == 5 else 0.05, step * 0.01)
    assert not standing.standing
    for step in range(20, 45):
        standing.see(0.05, step * 0.01)
    assert standing.standing
    standing.see(0.05, 10.0)  # after a long time without any queue
    assert not standing.standing


def test_a_standing_queue_sheds_the_old_but_never_the_last() -> None:
    state = LimitState(1, Queue(100, Codel(0.005, 0.1), lifo=False))
    state.places.pop()
    waiters = [Waiter(1, 0.0, lambda: None) for _ in range(60)]
    for waiter in waiters:
        state.join(waiter, 0.0)
    for step in range(1, 30):
        state.places.append(None)
        state.hand_on(step * 0.01)
    fates = [each.fate for each in waiters]
    assert Fate.WAITING not in fates
    assert state.fates[Fate.SHED] > 30
    assert fates[-1] is Fate.GRANTED


def test_sheddable_calls_do_not_join_a_standing_queue() -> None:
    queue = Queue(10, Codel(), lifo=True)
    assert queue.codel is not None
    queue.codel.standing = True
    waiters = [Waiter(rank, 0.0, lambda: None) for rank in (2, 1, 1)]
    for waiter in waiters:
        queue.push(waiter)
    assert waiters[0].fate is Fate.SHED
    assert queue.pop(0.0, []) is waiters[1]  # the look found that it does not stand any more: oldest first
    queue.codel.standing = True


def test_in_a_standing_queue_the_newest_is_served_first_when_asked_for() -> None:
    queue = Queue(10, Codel(), lifo=True)
    assert queue.codel is not None
    for step in range(12):
        queue.codel.see(1.0, step * 0.01)
    waiters = [Waiter(1, 0.12, lambda: None), Waiter(1, 0.121, lambda: None)]
    for waiter in waiters:
        queue.push(waiter)
    assert queue.pop(0.13, []) is waiters[1]


class Side:
    """A side with `workers`: it answers in `own_s` until it is full, then all wait for each other."""

    def __init__(self, workers: int, own_s: float) -> None:
        self.workers, self.own_s = workers, own_s

    def answer_s(self, at_once: float) -> float:
        return self.own_s * max(1.0, at_once / self.workers)


def learn(gradient: Gradient, side: Side, seconds: float, begun: float = 0.0, offered: float = 1e9) -> float:
    now = begun
    while now < begun + seconds:
        at_once = min(int(gradient.limit), offered)
        took_s = side.answer_s(at_once)
        span_s = gradient.look_at - now
        gradient.samples += max(int(at_once * span_s / took_s), 1)
        gradient.took_s += at_once * span_s
        now = gradient.look_at
        gradient.look(now)
    return now


def limit_of(gradient: Gradient) -> float:
    """The limit, also when a probe has halved it for a moment."""
    return max(gradient.limit, gradient._resume)


def test_the_gradient_finds_what_the_other_side_bears() -> None:
    for workers in (5, 50, 150):
        gradient = Gradient(Adaptive(max=400), 0.0)
        learn(gradient, Side(workers, 0.05), 20.0)
        assert workers <= limit_of(gradient) <= workers * 1.25 + 2 * workers**0.5 + 3


def test_the_gradient_follows_a_side_that_loses_and_regains_workers() -> None:
    gradient = Gradient(Adaptive(max=400), 0.0)
    now = learn(gradient, Side(100, 0.05), 20.0)
    now = learn(gradient, Side(25, 0.05), 20.0, now)
    assert limit_of(gradient) < 45
    learn(gradient, Side(100, 0.05), 20.0, now)
    assert limit_of(gradient) > 100


def test_a_side_that_has_become_slower_for_everybody_is_not_taken_for_a_full_one() -> None:
    gradient = Gradient(Adaptive(max=400), 0.0)
    now = learn(gradient, Side(100, 0.05), 20.0)
    learn(gradient, Side(100, 0.2), 10.0, now)
    assert limit_of(gradient) > 90


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    gradient = Gradient(Adaptive(max=400), 0.0)
    learn(gradient, Side(100, 0.05), 20.0, offered=5)
    assert gradient.limit == 20


def test_the_gradient_stays_within_its_bounds() -> None:
    gradient = Gradient(Adaptive(max=30, min=10), 0.0)
    now = learn(gradient, Side(1000, 0.05), 10.0)
    assert limit_of(gradient) == 30
    for _ in range(50):
        now = learn(gradient, Side(1, 0.05), 0.5, now)
        assert 10 <= gradient.limit <= 30

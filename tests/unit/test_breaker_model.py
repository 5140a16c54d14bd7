"""The breaker's state machine against a plain one that remembers everything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gapless.resilience.breaker_state import BreakerState, Growing, Mode, Thresholds
from gapless.resilience.breaker_window import FAILED, SLOW, CallWindow, Last, TimeWindow

RULES = Thresholds(rate=0.5, slow_rate=0.75, window=Last(calls=6), minimum=4, probes=2, open_for=Growing(4, 16, 2, 0))


class Plain:
    """Slow and obvious."""

    def __init__(self) -> None:
        self.state, self.stay, self.outcomes = "closed", 0, list[int]()
        self.until = self.open_s = 0.0
        self.closed_at = -1e9
        self.relapses = 0
        self.places: dict[int, int | None] = {}
        self.names = 0

    def begin(self, now: float) -> tuple[int, int] | None:
        """(stay, name) of an admitted call."""
        self.names += 1
        if self.state == "open" and now >= self.until:
            self.state, self.places = "half-open", {}
            self.stay += 1
        if self.state == "half-open":
            if len(self.places) < RULES.probes:
                self.places[self.names], self.until = None, now + self.open_s
                return self.stay, self.names
            if now >= self.until:
                self.open(now)
            return None
        return (self.stay, self.names) if self.state == "closed" else None

    def end(self, call: tuple[int, int], outcome: int | None, now: float) -> None:
        stay, name = call
        if stay != self.stay:
            return
        if outcome is None:
            self.places.pop(name, None)
        elif self.state == "half-open":
            self.places[name] = outcome
            answers = [each for each in self.places.values() if each is not None]
            self.judge(answers, RULES.probes, now)
            if self.state == "half-open" and len(answers) == RULES.probes:
                self.state, self.closed_at, self.outcomes = "closed", now, []
                self.stay += 1
        else:
            self.outcomes = [*self.outcomes, outcome][-RULES.window.calls :]
            if len(self.outcomes) >= RULES.minimum:
                self.judge(self.outcomes, len(self.outcomes), now)

    def judge(self, outcomes: list[int], of: int, now: float) -> None:
        failed = sum(bool(each & FAILED) for each in outcomes)
        slow = sum(bool(each & SLOW) for each in outcomes)
        if failed >= of * RULES.rate or slow >= of * RULES.slow_rate:
            self.open(now)

    def open(self, now: float) -> None:
        again = self.state == "half-open" or now - self.closed_at < self.open_s
        self.relapses = self.relapses + 1 if again else 0
        self.open_s = min(16.0, 4.0 * 2**self.relapses)
        self.state, self.until = "open", now + self.open_s
        self.stay += 1


class Compared(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state, self.plain = BreakerState(RULES), Plain()
        self.under_way: list[tuple[int, tuple[int, int]]] = []

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0, 9.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(calls=st.integers(1, 5))
    def begin(self, calls: int) -> None:
        for _ in range(calls):
            ticket = self.state.ticket or self.state.admit(self.now)
            plain = self.plain.begin(self.now)
            assert bool(ticket) == (plain is not None)
            if plain:
                self.under_way.append((ticket, plain))

    @rule(which=st.integers(0, 99), outcomes=st.lists(st.sampled_from([0, FAILED, SLOW, 3, None]), max_size=6))
    def end(self, which: int, outcomes: list[int | None]) -> None:
        for outcome in outcomes[: len(self.under_way)]:
            ticket, plain = self.under_way.pop(which % len(self.under_way))
            if outcome is None:
                self.state.give_back(ticket)
            else:
                self.state.settle(ticket, outcome, self.now)
            self.plain.end(plain, outcome, self.now)

    @invariant()
    def agree(self) -> None:
        assert self.state.mode == Mode(self.plain.state)
        assert (self.state.mode is Mode.CLOSED) == bool(self.state.ticket)
        if self.plain.state == "open":
            assert self.state.until == self.plain.until
        if self.plain.state == "closed":
            assert self.state.window.count == len(self.plain.outcomes)
            assert self.state.window.failed == sum(bool(each & FAILED) for each in self.plain.outcomes)


Compared.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestBreakerAgainstPlain = Compared.TestCase


def test_the_window_of_seconds_forgets_slice_by_slice() -> None:
    window = TimeWindow(10.0)
    for second in range(10):
        window.add(FAILED, float(second))
    assert (window.count, window.failed) == (10, 10)
    window.add(SLOW, 10.5)
    assert (window.count, window.failed, window.slow) == (10, 9, 1)
    window.add(0, 14.2)
    assert (window.count, window.failed, window.slow) == (7, 5, 1)
    window.add(0, 1000.0)
    assert (window.count, window.failed, window.slow) == (1, 0, 0)


@given(st.lists(st.tuples(st.floats(0.0, 6.0), st.sampled_from([0, FAILED, SLOW, 3])), max_size=60), st.floats(0, 1e9))
def test_the_window_of_seconds_knows_all_of_the_last_nine_tenths_and_nothing_older(
    steps: list[tuple[float, int]], begun: float
) -> None:
    window, calls, now = TimeWindow(10.0), list[tuple[float, int]](), begun
    for wait_s, outcome in steps:
        now += wait_s
        window.add(outcome, now)
        calls.append((now, outcome))
        surely = [each for at, each in calls if at > now - 8.99]
        at_most = [each for at, each in calls if at > now - 10.01]
        assert len(surely) <= window.count <= len(at_most)
        assert sum(each & 1 for each in surely) <= window.failed <= sum(each & 1 for each in at_most)
        assert sum(each >> 1 for each in surely) <= window.slow <= sum(each >> 1 for each in at_most)


def test_the_window_of_calls_forgets_the_oldest() -> None:
    window = CallWindow(3)
    for outcome in (FAILED, SLOW, 3, 0, 0):
        window.add(outcome, 0.0)
    assert (window.count, window.failed, window.slow) == (3, 1, 1)
    assert window.remembered() == [3, 0, 0]


def test_jitter_only_shortens_and_differs_each_time() -> None:
    state = BreakerState(Thresholds(rate=1, slow_rate=1, window=Last(1), minimum=1, probes=1, open_for=Growing(10, 10)))
    spans = []
    for at in range(0, 1000, 100):
        state.settle(state.ticket or state.admit(at), FAILED, at)
        spans.append(state.open_s)
    assert all(8 <= span <= 10 for span in spans)
    assert len(set(spans)) == 10

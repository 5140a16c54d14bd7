"""A good call of a closed breaker counts itself, without the lock: nobody may be able to tell."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.resilience.breaker import BreakerLayer, breaker, growing, last
from gapless.resilience.breaker_window import FAILED, SLOW
from gapless.resilience.errors import BreakerOpen
from gapless.resilience.policy import Binding, Common, Site
from gapless.testing.world import FakeWorld

SITE = Site(name="call")
POLICIES = [
    breaker(rate=0.5, slow=1.0, slow_rate=0.75, window=6, minimum=4, probes=2, open_for=growing(4, 16, jitter=0)),
    breaker(rate=0.3, slow=1.0, window=4, minimum=2, probes=1, open_for=2.0),
    breaker(rate=0.4, slow=1.0, window=9, minimum=1, probes=1, open_for=2.0),
    breaker(rate=0.5, slow=1.0, window="10s", minimum=4, probes=2, open_for=growing(4, 16, jitter=0)),
    breaker(rate=0.2, slow=1.0, slow_rate=0.5, window="3s", minimum=6, probes=1, open_for=2.0),
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.sampled_from([0, 0, 0, 0, FAILED, SLOW, FAILED | SLOW])),
        st.tuples(st.just("call"), st.sampled_from([0, FAILED])),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 0.3, 1.0, 4.0, 12.0])),
        st.tuples(st.just("force"), st.sampled_from(["automatic", "closed", "disabled", "open"])),
        st.tuples(st.just("reload"), st.sampled_from(POLICIES)),
    ),
    max_size=60,
)


def layer_of(policy: Any, world: FakeWorld) -> BreakerLayer:
    layer = policy.bind(Binding(guard="g", world=world, now=world.now, common=Common()))
    assert isinstance(layer, BreakerLayer)
    return layer


class Pair:
    """The same calls around which `ours` is a closure, and about each of which `theirs` is asked and told."""

    def __init__(self, policy: Any) -> None:
        self.world, self.policy = FakeWorld(), policy
        self.ours, self.theirs = layer_of(policy, self.world), layer_of(policy, self.world)
        self.guarded = self.ours.around_sync(self.work, SITE)

    def work(self, args: Any, kwargs: Any) -> Any:
        (outcome,) = args
        self.world.stall(1.5 if outcome & SLOW else 0.01)
        if outcome & FAILED:
            raise OSError

    def call(self, outcome: int) -> None:
        began, admitted = self.world.now(), True
        try:
            self.guarded((outcome,), {})
        except OSError:
            pass
        except BreakerOpen:
            admitted = False
        ticket = self.theirs.state.admit(began)
        assert bool(ticket) == admitted
        if ticket:
            self.theirs.state.settle(ticket, outcome, self.world.now())

    def wait(self, seconds: float) -> None:
        self.world.stall(seconds)

    def force(self, mode: str) -> None:
        self.ours.force(mode)
        self.theirs.force(mode)

    def reload(self, policy: Any) -> None:
        if policy == self.policy:
            return
        old, self.policy = (self.ours, self.theirs), policy
        self.ours, self.theirs = layer_of(policy, self.world), layer_of(policy, self.world)
        self.ours.adopt(old[0])
        self.theirs.adopt(old[1])
        self.guarded = self.ours.around_sync(self.work, SITE)


@given(policy=st.sampled_from(POLICIES), steps=STEPS)
def test_calls_that_count_themselves_and_calls_that_are_settled_lead_to_the_same(policy: Any, steps: Any) -> None:
    pair = Pair(policy)
    for act, value in steps:
        getattr(pair, act)(value)
        assert pair.ours.statistics() == pair.theirs.statistics()


@pytest.mark.parametrize("window", [100, "10s"])
def test_no_call_is_lost_between_threads(window: Any) -> None:
    world = FakeWorld()
    layer = layer_of(breaker(rate=1.0, window=last(window)), world)
    call = layer.around_sync(lambda args, kwargs: 1 // args[0], SITE)

    def work() -> None:
        for turn in range(10_000):
            try:
                call((turn % 50,), {})
            except ZeroDivisionError:
                continue

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(before)
    found = layer.statistics()
    assert (found["calls"], found["failed"]) == (40_000, 800)
    assert found["window_calls"] == (100 if window == 100 else 40_000)

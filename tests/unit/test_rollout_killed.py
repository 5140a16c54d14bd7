"""Rollouts in a small world with slow instances, a slow gateway and a control plane that is killed all the time."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core import codec
from gapless.core.errors import InvalidTransition
from gapless.core.model import (
    BUCKETS,
    Amount,
    Objective,
    Pool,
    Rollout,
    RolloutPolicy,
    RolloutState,
    Split,
    SplitBy,
    Strategy,
    Window,
)
from gapless.rollout.controller import Observed, Outcome, advance, steer
from gapless.rollout.observed import Failure
from gapless.rollout.plan import replaced_at_once

OLD, NEW = "1.0", "1.1"
FAIR_AT = 60
"""From then on nothing is slow any more, so that everything must end."""
ENDED_BY = 400
START_S = 20.0


@dataclass
class Machine:
    release: str
    ready_at: float
    leaving: bool = False


@dataclass
class Small:
    """One service. `rollout`, `split` and `pool` are the store's; `live` is what the gateway does, `applied` what the
    control plane knows of it."""

    dice: random.Random
    rollout: Rollout
    split: Split
    pool: Pool
    new_errors: float = 0.0
    new_ready: bool = True
    now: float = 1_000.0
    applied: Split | None = None
    live: Split = field(init=False)
    machines: list[Machine] = field(init=False)
    failures: tuple[Failure, ...] = ()
    asked: dict[str, list[int]] = field(default_factory=lambda: {OLD: [0, 0], NEW: [0, 0]})
    acts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.live = self.split
        self.machines = [Machine(OLD, 0.0) for _ in range(self.rollout.instances)]

    @property
    def slow(self) -> bool:
        return self.now < 1_000 + FAIR_AT

    def ready(self, release: str) -> int:
        return sum(m.release == release and not m.leaving and m.ready_at <= self.now for m in self.machines)

    def tick(self) -> None:
        self.now += 1
        self.fleet()
        self.gateway()
        self.traffic()
        self.control()
        self.check_capacity()

    def fleet(self) -> None:
        self.machines = [m for m in self.machines if not (m.leaving and self.dice.random() < 0.5)]
        for release in (OLD, NEW):
            mine = [m for m in self.machines if m.release == release and not m.leaving]
            for machine in mine[self.pool.sizes.get(release, 0) :]:
                machine.leaving = True
            for _ in range(self.pool.sizes.get(release, 0) - len(mine)):
                self.start(release)

    def start(self, release: str) -> None:
        if release == NEW and not self.new_ready and self.dice.random() < 0.5:
            self.failures += (Failure(at=self.now, reason="exit 1", log="ImportError"),)
            return
        never = release == NEW and not self.new_ready
        wait = 1e9 if never else self.dice.randint(0, 5 if self.slow else 1)
        self.machines.append(Machine(release, self.now + wait))

    def gateway(self) -> None:
        if not self.slow or self.dice.random() < 0.4:
            self.live = self.split
            if not self.slow or self.dice.random() < 0.7:  # the acknowledgement may be late
                self.applied = self.live

    def traffic(self) -> None:
        weights = dict(self.live.weights)
        for release, errors in ((OLD, 0.0), (NEW, self.new_errors)):
            requests = 200 * weights.get(release, 0) // BUCKETS
            self.asked[release][0] += requests
            self.asked[release][1] += sum(self.dice.random() < errors for _ in range(requests))

    def observe(self) -> Observed:
        running = {r: sum(m.release == r for m in self.machines) for r in (OLD, NEW)}
        return Observed(
            ready={r: self.ready(r) for r in (OLD, NEW)},
            running=running,
            failures=self.failures,
            split=self.split,
            applied=self.applied,
            pool=self.pool,
        )

    def control(self) -> None:
        """One look, by a control plane that may be killed before it writes, or between its writes."""
        observed, windows = self.observe(), [self.window(r) for r in (NEW, OLD)]
        outcome = advance(self.rollout, observed, *windows, Objective(), self.now, start_s=START_S)
        again = advance(outcome.rollout, observed, *windows, Objective(), self.now, start_s=START_S)
        assert again.rollout == outcome.rollout, "taking a decision again changes it"
        assert not again.acts
        killed = self.slow and self.dice.random() < 0.3
        if killed:
            self.applied = None
            if self.dice.random() < 0.5:
                return
        self.write(outcome, lose=killed)

    def window(self, release: str) -> Window:
        requests, errors = self.asked[release]
        return Window(requests=requests, errors=errors)

    def write(self, outcome: Outcome, lose: bool) -> None:
        self.check(outcome)
        if outcome.rollout.evidence.until_at == self.now:
            self.asked = {OLD: [0, 0], NEW: [0, 0]}
        self.rollout = codec.decode(codec.encode(outcome.rollout), Rollout)
        self.acts += [act.what for act in outcome.acts]
        if not lose:  # a store without transactions: the next look must write what this one did not
            self.split = outcome.split or self.split
            self.pool = outcome.pool or self.pool

    def check(self, outcome: Outcome) -> None:
        rollout = outcome.rollout
        if outcome.pool:
            assert sum(outcome.pool.sizes.values()) >= self.least
            if not outcome.pool.sizes.get(OLD, 0):
                assert self.live.weights == ((NEW, BUCKETS),)
        if outcome.split:
            weights = outcome.split.weights
            assert sum(weight for _, weight in weights) == BUCKETS
            assert weights[0][0] == NEW or len(weights) == 1
            self.check_users(outcome.split, forward=rollout.winner != OLD)
        if rollout.state is RolloutState.PROMOTED and not self.acts_by_hand:
            assert rollout.evidence.step_requests >= rollout.policy.min_samples

    @property
    def least(self) -> int:
        """Instances that must always be ready."""
        rollout = self.rollout
        rolling = rollout.policy.strategy is Strategy.ROLLING
        return rollout.instances - (replaced_at_once(rollout.policy, rollout.instances)[1] if rolling else 0)

    @property
    def acts_by_hand(self) -> bool:
        return "promote" in self.acts

    def check_users(self, split: Split, forward: bool) -> None:
        for bucket in range(0, BUCKETS, 97):
            moved = (self.split.release_of(bucket), split.release_of(bucket))
            assert moved != ((NEW, OLD) if forward else (OLD, NEW)), "a user was moved the wrong way"

    def check_capacity(self) -> None:
        """Both pools, as far as they are ready, carry the users whom the gateway gives them."""
        instances = self.least
        assert self.ready(OLD) + self.ready(NEW) >= instances
        for release, weight in self.live.weights:  # a weight is rounded by less than one bucket
            assert self.ready(release) * BUCKETS > (weight - 1) * instances or not weight

    def run(self) -> Rollout:
        while not self.rollout.state.ended:
            self.tick()
            assert self.now < 1_000 + ENDED_BY, f"it does not end: {self.rollout}"
        return self.rollout


def small(
    seed: int,
    strategy: Strategy,
    instances: int,
    steps: tuple[int, ...] = (500, 5_000, BUCKETS),
    surge: int = 1,
    missing: int = 0,
) -> Small:
    policy = RolloutPolicy(
        strategy=strategy,
        by=SplitBy.REQUEST,
        steps=steps,
        hold_s=4,
        min_samples=40,
        power=0.0,
        patience_s=300,
        surge=Amount(count=surge),
        unavailable=Amount(count=missing),
    )
    rollout = Rollout(
        number=7,
        service="s",
        before=OLD,
        after=NEW,
        policy=policy,
        instances=instances,
        started_at=1_000,
        since_at=1_000,
    )
    split = Split(service="s", stable=OLD, weights=((OLD, BUCKETS),))
    return Small(random.Random(seed), rollout, split, Pool(service="s", sizes={OLD: instances}))


worlds = st.builds(
    small,
    st.integers(0, 10**6),
    st.sampled_from(Strategy),
    st.integers(1, 5),
    st.sampled_from([(500, 5_000, BUCKETS), (100, BUCKETS), (BUCKETS,), (2_000, 2_500, 9_999, BUCKETS)]),
    st.integers(0, 3),
    st.integers(0, 3),
)
quick = settings(deadline=None)


@quick
@given(world=worlds)
def test_a_good_release_is_promoted(world: Small) -> None:
    ended = world.run()
    assert (ended.state, ended.winner) == (RolloutState.PROMOTED, NEW), ended.reason
    assert world.split.weights == ((NEW, BUCKETS),) == world.live.weights
    assert world.ready(NEW) == ended.instances
    assert not world.ready(OLD)


@quick
@given(world=worlds, errors=st.sampled_from([0.3, 1.0]))
def test_a_bad_release_is_rolled_back(world: Small, errors: float) -> None:
    world.new_errors = errors
    ended = world.run()
    assert (ended.state, ended.winner) == (RolloutState.ROLLED_BACK, OLD), ended.reason
    assert world.live.weights == ((OLD, BUCKETS),)
    assert world.ready(OLD) == ended.instances
    assert ended.evidence.users_met
    assert ended.shifted_at <= ended.decided_at <= ended.ended_at


@quick
@given(world=worlds)
def test_a_release_that_never_becomes_ready_is_refused(world: Small) -> None:
    world.new_ready = False
    before, ended = world.split, world.run()
    assert ended.state is RolloutState.ROLLED_BACK
    assert ended.refused
    assert world.split is before
    assert world.ready(OLD) == ended.instances


@quick
@given(
    world=worlds,
    asked=st.lists(st.tuples(st.integers(0, 50), st.sampled_from(["pause", "resume", "abort", "promote"])), max_size=5),
    errors=st.sampled_from([0.0, 0.0, 0.5]),
)
def test_whatever_people_ask_for_it_ends(world: Small, asked: list[tuple[int, str]], errors: float) -> None:
    world.new_errors = errors
    for at, verb in sorted([*asked, (50, "resume")]):
        while world.now < 1_000 + at and not world.rollout.state.ended:
            world.tick()
        with suppress(InvalidTransition):
            world.rollout = steer(world.rollout, verb, f"{verb} by hand", world.now)
            world.acts.append(verb)
    ended = world.run()
    assert world.live.weights in (((OLD, BUCKETS),), ((NEW, BUCKETS),))
    assert world.ready(ended.winner) == ended.instances


@quick
@given(world=worlds, at=st.integers(0, 30))
def test_an_abort_ends_with_the_old_release(world: Small, at: int) -> None:
    while world.now < 1_000 + at:
        world.tick()
    try:
        world.rollout = steer(world.rollout, "abort", "not today", world.now)
    except InvalidTransition:
        assert world.rollout.winner == NEW
        return
    assert world.run().winner == OLD
    assert replace(world.rollout, log="").reason == "not today"

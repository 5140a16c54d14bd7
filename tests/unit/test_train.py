"""Trains: several of the small worlds of `test_rollout_killed`, whose rollouts are decided and written together by a
control plane that is killed all the time."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.errors import InvalidTransition
from gapless.core.model import BUCKETS, Objective, Rollout, RolloutState, StepRule, Strategy
from gapless.rollout.calendar import Closed
from gapless.rollout.commands import steer
from gapless.rollout.scene import Outcome
from gapless.rollout.train import BACK_ORDER_S, Member, advance, closure
from gapless.rollout.wanted import plan_of
from tests.unit.test_rollout_killed import ENDED_BY, NEW, OLD, START_S, Small, small

NAMES = ("caller", "middle", "callee")
NEEDS = {"caller": ("middle",), "middle": ("callee",)}


@dataclass
class Line:
    """The services of a train. `closed_until` is the end of a freeze."""

    smalls: list[Small]
    frozen_from: float = 0.0
    frozen_until: float = 0.0
    back_at: dict[str, float] = field(default_factory=dict)
    """When the gateway was told to send a service's users back."""

    def __post_init__(self) -> None:
        for name, each in zip(NAMES, self.smalls, strict=False):
            policy = replace(each.rollout.policy, rules=(StepRule(weight=BUCKETS, approve=True),))
            each.rollout = replace(each.rollout, service=name, train="t", policy=policy)
            each.split = each.live = replace(each.split, service=name)
            each.pool = replace(each.pool, service=name)

    @property
    def now(self) -> float:
        return self.smalls[0].now

    @property
    def rollouts(self) -> list[Rollout]:
        return [each.rollout for each in self.smalls]

    def closed(self) -> Closed | None:
        frozen = self.frozen_from <= self.now < self.frozen_until
        return Closed(reason="frozen", until_at=self.frozen_until) if frozen else None

    def tick(self) -> None:
        for each in self.smalls:
            each.now += 1
            each.fleet()
            each.gateway()
            each.traffic()
        self.approve()
        self.control()
        for each in self.smalls:
            each.check_capacity()

    def approve(self) -> None:
        for each in self.smalls:
            if "approval" in each.rollout.waiting:
                each.rollout = steer(each.rollout, "approve", "fine", self.now, "somebody")

    def control(self) -> None:
        members = [self.member(each) for each in self.smalls]
        outcomes = advance(members, self.now, self.closed())
        dice = self.smalls[0].dice
        if self.smalls[0].slow and dice.random() < 0.3:
            for each in self.smalls:
                each.applied = None  # killed; the next one does not know yet what the gateway does
            if dice.random() < 0.5:
                return
        self.check(outcomes)
        for each, outcome in zip(self.smalls, outcomes, strict=True):
            if outcome.rollout.winner == OLD and outcome.split and dict(outcome.split.weights).get(NEW, 0) == 0:
                self.back_at.setdefault(each.rollout.service, self.now)
            each.write(outcome, lose=False)

    def member(self, each: Small) -> Member:
        return Member(
            rollout=each.rollout,
            observed=each.observe(),
            canary=each.window(NEW),
            stable=each.window(OLD),
            objective=Objective(),
            start_s=START_S,
            needs=closure(NEEDS, each.rollout.service),
        )

    def check(self, outcomes: list[Outcome]) -> None:
        before, after = self.rollouts, [outcome.rollout for outcome in outcomes]
        for was, now in zip(before, after, strict=True):
            if now.step > was.step:
                assert not self.closed()
                assert all(other.step >= min(now.step - 1, last(other)) for other in before if other is not was)
                assert not any(other.winner == OLD for other in after), "forward, while another one goes back"
            if now.applied_at and now.winner == NEW and not was.applied_at and now.state is not RolloutState.SHIFTING:
                assert all(other.winner == NEW for other in after), "an old pool is given up too soon"
        if any(rollout.winner == OLD for rollout in after):
            assert all(rollout.winner == OLD for rollout in after)

    def run(self) -> list[Rollout]:
        while not all(rollout.state.ended for rollout in self.rollouts):
            self.tick()
            assert self.now < 1_000 + ENDED_BY, f"it does not end: {self.rollouts}"
        return self.rollouts


def last(rollout: Rollout) -> int:
    return len(plan_of(rollout)) - 1


worlds = st.builds(
    small,
    st.integers(0, 10**6),
    st.sampled_from(Strategy),
    st.integers(1, 3),
    st.sampled_from([(500, 5_000, BUCKETS), (100, BUCKETS), (BUCKETS,)]),
)
lines = st.builds(Line, st.lists(worlds, min_size=2, max_size=3))
quick = settings(deadline=None)


@quick
@given(line=lines)
def test_good_releases_are_promoted_together(line: Line) -> None:
    ended = line.run()
    assert [rollout.state for rollout in ended] == [RolloutState.PROMOTED] * len(ended), ended
    assert all(each.live.weights == ((NEW, BUCKETS),) for each in line.smalls)
    assert len({each.live.salt for each in line.smalls}) == 1, "their users meet other releases than before"


@quick
@given(line=lines, bad=st.integers(0, 2), errors=st.sampled_from([0.3, 1.0]))
def test_one_bad_release_takes_all_back(line: Line, bad: int, errors: float) -> None:
    line.smalls[bad % len(line.smalls)].new_errors = errors
    ended = line.run()
    assert [rollout.state for rollout in ended] == [RolloutState.ROLLED_BACK] * len(ended), ended
    assert all(each.ready(OLD) == each.rollout.instances for each in line.smalls)
    moved = [line.back_at[name] for name in NAMES if name in line.back_at]
    assert all(later >= sooner - BACK_ORDER_S for sooner, later in pairwise(moved))


@quick
@given(line=lines, bad=st.integers(0, 2))
def test_one_release_that_never_starts_refuses_all(line: Line, bad: int) -> None:
    line.smalls[bad % len(line.smalls)].new_ready = False
    ended = line.run()
    assert all(rollout.refused for rollout in ended)
    assert all(each.live is each.split for each in line.smalls)


@quick
@given(
    line=lines,
    asked=st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from(["pause", "resume", "abort", "promote", "skip"])), max_size=4
    ),
    freeze=st.tuples(st.integers(0, 40), st.integers(0, 30)),
    errors=st.sampled_from([0.0, 0.0, 0.5]),
)
def test_whatever_people_ask_for_all_end_alike(
    line: Line, asked: list[tuple[int, str]], freeze: tuple[int, int], errors: float
) -> None:
    line.frozen_from, line.frozen_until = 1_000 + freeze[0], 1_000 + freeze[0] + freeze[1]
    line.smalls[-1].new_errors = errors
    for at, verb in sorted([*asked, (50, "resume")]):
        while line.now < 1_000 + at and not all(rollout.state.ended for rollout in line.rollouts):
            line.tick()
        ask(line, verb)
    ended = line.run()
    assert len({rollout.winner for rollout in ended}) == 1
    assert all(each.ready(each.rollout.winner) == each.rollout.instances for each in line.smalls)


def ask(line: Line, verb: str) -> None:
    """As `RolloutCommands.steer` does: of all members that can, and not forward in a freeze."""
    if verb in ("promote", "skip") and line.closed():
        return
    for each in line.smalls:
        with suppress(InvalidTransition):
            each.rollout = steer(each.rollout, verb, f"{verb} by hand", line.now, "somebody")
            each.acts.append("promote" if verb in ("promote", "skip") else verb)


def test_callers_go_back_before_those_they_call() -> None:
    line = Line([small(n, Strategy.CANARY, 1) for n in range(3)])
    while not all(each.live.weights[0] == (NEW, 5_000) and each.applied == each.live for each in line.smalls):
        line.tick()
    first = line.smalls[0]
    first.rollout = steer(first.rollout, "abort", "not today", line.now)
    line.run()
    assert line.back_at["caller"] < line.back_at["middle"] < line.back_at["callee"]


def test_needs_are_followed_over_others() -> None:
    assert closure(NEEDS, "caller") == {"middle", "callee"}
    assert closure({"a": ("b",), "b": ("a",)}, "a") == {"b"}
    assert closure({}, "a") == frozenset()

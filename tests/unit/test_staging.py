"""The decider of staged changes of configuration: who has it first, what brings it back, and that a kill changes
nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.configured import ConfigStage, StageState
from gapless.core.errors import InvalidTransition
from gapless.core.model import BUCKETS, Address, Instance, Objective, Phase, RolloutPolicy, Window
from gapless.rollout.staging import TAKE_LIMIT_S, StageOutcome, Watched, abort, advance, begin, chosen, watched

NAMES = st.sets(st.integers(0, 30).map(lambda n: f"web-{n}"), min_size=2, max_size=12)
WEIGHTS = st.integers(1, BUCKETS - 1)
POLICY = RolloutPolicy(hold_s=5.0, min_samples=20, power=0.0, patience_s=120.0)
NOTHING = Window()


def stage_of(weight: int = 5_000, **more: Any) -> ConfigStage:
    return ConfigStage(service="web", number=2, before=1, weight=weight, policy=POLICY, started_at=100.0, **more)


def answers(requests: int, errors: int = 0) -> Window:
    return Window(requests=requests, errors=errors)


@given(NAMES, WEIGHTS, WEIGHTS)
def test_a_larger_share_only_adds_instances(names: set[str], one: int, other: int) -> None:
    small, large = sorted((one, other))
    first, more = chosen(stage_of(small), names), chosen(stage_of(large), names)
    assert set(first) <= set(more) <= names
    assert 1 <= len(first) <= len(more) <= len(names) - 1
    assert len(first) >= min(len(names) * small / BUCKETS, len(names) - 1)


@given(NAMES, WEIGHTS, st.data())
def test_who_has_it_keeps_it_whoever_comes_and_goes(names: set[str], weight: int, data: st.DataObject) -> None:
    stage = begin(stage_of(weight), names)
    gone = data.draw(st.sets(st.sampled_from(sorted(names)), max_size=len(names) - 2))
    come = data.draw(st.sets(st.integers(40, 50).map(lambda n: f"web-{n}"), max_size=3))
    left = (names - gone) | come
    after = chosen(stage, left)
    kept = set(stage.members) & left
    assert set(after) <= kept or kept <= set(after)
    assert chosen(replace(stage, members=after), left) == after


@given(NAMES)
def test_in_the_end_all_have_it(names: set[str]) -> None:
    assert set(chosen(stage_of(state=StageState.ALL), names)) == names


@pytest.mark.parametrize("names", [(), ("web-1",)])
def test_a_share_needs_somebody_to_compare_with(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidTransition):
        begin(stage_of(), names)


SEEN = Watched(
    serving=frozenset({"a", "b", "c", "d"}),
    ready=frozenset({"a", "b", "c", "d"}),
    taken=frozenset({"a", "b", "c", "d"}),
)


def run(stage: ConfigStage, seen: Watched, canary: Window, others: Window, seconds: int, now_at: float) -> ConfigStage:
    """A look each second, with the same answers."""
    for second in range(seconds):
        stage = advance(stage, seen, canary, others, Objective(), now_at + second).stage
    return stage


def begun() -> ConfigStage:
    return replace(begin(stage_of(), SEEN.serving), since_at=100.0)


def test_a_good_one_goes_to_all_and_is_promoted_after_its_hold() -> None:
    stage = run(begun(), SEEN, answers(10), answers(10), 5, 100.0)
    assert stage.state is StageState.SHARE
    stage = run(stage, SEEN, answers(10), answers(10), 2, 105.0)
    assert (stage.state, set(stage.members)) == (StageState.ALL, SEEN.serving)
    stage = run(stage, SEEN, answers(10), NOTHING, 10, 107.0)
    assert stage.state is StageState.PROMOTED


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40))
def test_nothing_is_promoted_without_enough_answers(looks: list[tuple[int, int]]) -> None:
    stage = begun()
    for second, (mine, other) in enumerate(looks):
        before = stage
        stage = advance(stage, SEEN, answers(mine), answers(other), Objective(), 100.0 + second).stage
        if stage.state is StageState.ALL and before.state is StageState.SHARE:
            assert before.evidence.step_requests + mine >= POLICY.min_samples
            assert 100.0 + second - before.applied_at >= POLICY.hold_s


def test_no_evidence_goes_back_at_last() -> None:
    stage = run(begun(), SEEN, NOTHING, answers(10), 130, 100.0)
    assert stage.state is StageState.ROLLED_BACK
    assert "no sufficient evidence" in stage.reason


def test_errors_of_its_instances_only_bring_it_back() -> None:
    bad = run(begun(), SEEN, answers(10, 5), answers(10), 30, 100.0)
    assert bad.state is StageState.ROLLED_BACK
    shared = run(begun(), SEEN, answers(10, 5), answers(10, 5), 30, 100.0)
    assert shared.state is StageState.SHARE, "what hits all is no reason"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"refused": {"MEMBER": "price: too dear"}}, "did not take it: price: too dear"),
        ({"crashed": frozenset({"MEMBER"})}, "crashed after it had got it"),
        ({"failures": {"MEMBER": 3}}, "3 health checks or instances of the canary failed"),
    ],
)
def test_a_member_in_trouble_brings_it_back_and_another_instance_does_not(change: Any, said: str) -> None:
    stage = begun()
    other = next(iter(SEEN.serving - set(stage.members)))

    def trouble(name: str) -> Watched:
        (field, value), *_ = change.items()
        filled = dict.fromkeys([name], next(iter(value.values()))) if isinstance(value, dict) else frozenset({name})
        return replace(SEEN, **{field: filled})

    harmed = advance(stage, trouble(stage.members[0]), NOTHING, NOTHING, Objective(), 101.0)
    assert harmed.stage.state is StageState.ROLLED_BACK
    assert said in harmed.stage.reason
    assert harmed.acts[0].why == harmed.stage.reason
    assert advance(stage, trouble(other), NOTHING, NOTHING, Objective(), 101.0).stage.state is StageState.SHARE


def test_what_fails_everywhere_is_not_held_against_it() -> None:
    stage = begun()
    down = replace(SEEN, ready=frozenset(), failures=dict.fromkeys(SEEN.serving, 9), crashed=SEEN.serving)
    assert advance(stage, down, NOTHING, NOTHING, Objective(), 101.0).stage.state is StageState.SHARE


def test_who_never_takes_it_brings_it_back_but_not_while_nobody_could_hear() -> None:
    stage, deaf = begun(), replace(SEEN, taken=frozenset())
    late = 100.0 + TAKE_LIMIT_S + 1
    assert "not taken within" in advance(stage, deaf, NOTHING, NOTHING, Objective(), late).stage.reason
    restarted = replace(deaf, began_at=late - 1)
    assert advance(stage, restarted, NOTHING, NOTHING, Objective(), late).stage.state is StageState.SHARE


LOOKS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans(), st.sampled_from(["", "refused", "crashed"])),
    max_size=30,
)


@given(LOOKS, st.sets(st.integers(0, 29)))
def test_a_look_that_was_written_or_lost_leads_to_the_same_end(looks: Any, lost: set[int]) -> None:
    """The decision is a function of what is stored: what was not written is decided again."""
    stage, twice = begun(), begun()
    for second, (mine, errors, taken, trouble) in enumerate(looks):
        seen = SEEN if taken else replace(SEEN, taken=frozenset())
        if trouble:
            value: Any = {stage.members[0]: "no"} if trouble == "refused" else frozenset({stage.members[0]})
            seen = replace(seen, **{trouble: value})
        arguments = (seen, answers(mine, min(errors, mine)), answers(9), Objective(), 100.0 + second)
        stage = advance(stage, *arguments).stage
        if second in lost:
            advance(twice, *arguments)  # decided, and killed before it was written
        twice = advance(twice, *arguments).stage
        assert twice == stage
        again = advance(stage, seen, NOTHING, NOTHING, Objective(), 100.0 + second)
        assert stage.state.ended <= (again == StageOutcome(stage=stage))


@given(LOOKS)
def test_an_end_is_an_end_and_is_told_once(looks: Any) -> None:
    stage, ends = begun(), 0
    for second, (mine, errors, _, _) in enumerate(looks):
        outcome = advance(stage, SEEN, answers(mine, min(errors, mine)), answers(9), Objective(), 100.0 + 3 * second)
        ends += sum("back to" in act.what or "promoted" in act.what for act in outcome.acts)
        assert not (stage.state.ended and outcome.stage != stage)
        stage = outcome.stage
    assert ends == stage.state.ended
    assert (stage.ended_at > 0) == stage.state.ended


def test_by_hand_it_goes_back_at_once() -> None:
    assert abort(begun(), "carts are empty", 103.0).state is StageState.ROLLED_BACK


def test_what_is_watched_is_taken_from_the_records() -> None:
    def instance(name: str, phase: Phase, **more: Any) -> Instance:
        return Instance(
            id=name, service="web", release="1", address=Address(host="h", port=1), phase=phase, was_ready=True, **more
        )

    seen = watched(
        stage_of(),
        [
            instance("a", Phase.READY),
            instance("b", Phase.UNREADY, failures=4),
            instance("c", Phase.STOPPED, failed=True, since_at=101.0),
            instance("d", Phase.STOPPED, failed=True, since_at=99.0),
            replace(instance("e", Phase.READY), service="db"),
        ],
        {"a"},
        {},
        7.0,
    )
    assert seen == Watched(
        serving=frozenset("ab"),
        ready=frozenset("a"),
        taken=frozenset("a"),
        crashed=frozenset("c"),
        failures={"a": 0, "b": 4},
        began_at=7.0,
    )

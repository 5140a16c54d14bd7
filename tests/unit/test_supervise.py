"""Supervision never drops capacity, never starts in a frenzy, and settles."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gapless.core.model import Address, Instance, Phase
from gapless.core.supervise import (
    BACKOFF_FIRST_S,
    BACKOFF_LIMIT_S,
    KEEP_ENDED,
    Action,
    Drain,
    Forget,
    Start,
    Stop,
    backoff_s,
    crashes,
    supervise,
)

START_S = 30.0


def instance(name: str = "a", release: str = "v1", phase: Phase = Phase.READY, **changes: object) -> Instance:
    made = Instance(
        id=name, service="orders", release=release, address=Address(host="127.0.0.1", port=1), phase=phase, pid=1
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def decide(
    wanted: dict[str, int], instances: list[Instance], now_at: float = 100.0, unrouted: tuple[str, ...] = ()
) -> list[Action]:
    return supervise(wanted, instances, now_at, start_s=START_S, unrouted=unrouted)


def test_an_empty_pool_is_filled() -> None:
    assert decide({"v1": 2}, []) == [Start("v1"), Start("v1")]


def test_a_full_pool_is_left_alone() -> None:
    assert decide({"v1": 1}, [instance(since_at=99.0)]) == []


def test_a_surplus_is_drained_least_useful_first() -> None:
    pool = [instance("old", created_at=1.0), instance("new", created_at=2.0), instance("boot", phase=Phase.STARTING)]
    pool[2] = replace(pool[2], since_at=99.0)
    assert [a.instance for a in decide({"v1": 1}, pool) if isinstance(a, Drain)] == ["boot", "new"]


def test_a_draining_instance_is_stopped_only_when_nobody_sends_to_it() -> None:
    draining = instance(phase=Phase.DRAINING)
    assert decide({}, [draining]) == []
    assert decide({}, [draining], unrouted=("a",)) == [Stop("a")]


def test_one_that_never_becomes_ready_is_given_up_and_replaced() -> None:
    slow = instance(phase=Phase.STARTING, since_at=0.0, detail="/readyz answers 503")
    gone, start = decide({"v1": 1}, [slow])
    assert isinstance(gone, Drain)
    assert gone.failed
    assert gone.why == "not ready within 30 s; its last answer: /readyz answers 503"
    assert start == Start("v1")


def test_a_crash_after_a_long_life_is_replaced_at_once() -> None:
    dead = instance(phase=Phase.STOPPED, failed=True, was_ready=True, created_at=0.0, since_at=100.0)
    assert decide({"v1": 1}, [dead]) == [Start("v1")]


def test_a_crash_loop_is_slowed_down() -> None:
    dead = [instance(str(n), phase=Phase.STOPPED, failed=True, created_at=99.0, since_at=100.0) for n in range(3)]
    assert decide({"v1": 1}, dead) == []
    assert decide({"v1": 1}, dead, now_at=100.0 + backoff_s(3)) == [Start("v1")]


def test_records_of_ended_instances_are_bounded() -> None:
    ended = [instance(str(n), phase=Phase.STOPPED, since_at=float(n)) for n in range(KEEP_ENDED + 2)]
    assert {a.instance for a in decide({}, ended) if isinstance(a, Forget)} == {"0", "1"}


@given(st.integers(0, 60))
def test_backoff_grows_within_its_bounds(failures: int) -> None:
    assert backoff_s(failures) <= backoff_s(failures + 1) <= BACKOFF_LIMIT_S
    assert failures == 0 or backoff_s(failures) >= BACKOFF_FIRST_S


instances = st.builds(
    instance,
    st.uuids().map(str),
    st.sampled_from(["v1", "v2"]),
    st.sampled_from(list(Phase)),
    created_at=st.floats(0, 50),
    since_at=st.floats(50, 100),
    failed=st.booleans(),
    was_ready=st.booleans(),
)
wanted_pools = st.dictionaries(st.sampled_from(["v1", "v2"]), st.integers(0, 4))


@given(wanted_pools, st.lists(instances, max_size=8), st.floats(100, 200))
def test_nothing_ready_is_drained_below_the_wanted_size(
    wanted: dict[str, int], found: list[Instance], now_at: float
) -> None:
    drained = {a.instance for a in decide(wanted, found, now_at) if isinstance(a, Drain)}
    for release, size in wanted.items():
        ready = [i for i in found if i.release == release and i.phase is Phase.READY]
        left = [i for i in ready if i.id not in drained]
        assert len(left) >= min(size, len(ready))


@given(wanted_pools, st.lists(instances, max_size=8))
def test_it_settles(wanted: dict[str, int], found: list[Instance]) -> None:
    """Doing what is decided, with every start succeeding, ends in exactly the wanted pool."""
    now_at, fresh = 1_000.0, 0
    for _ in range(6):
        now_at += BACKOFF_LIMIT_S
        alive = {i.id: i for i in found}
        for action in decide(wanted, list(alive.values()), now_at, tuple(alive)):
            match action:
                case Start(release):
                    fresh += 1
                    alive[f"n{fresh}"] = instance(f"n{fresh}", release, since_at=now_at, created_at=now_at)
                case Drain(name):
                    alive[name] = replace(alive[name], phase=Phase.DRAINING, since_at=now_at)
                case Stop(name):
                    alive[name] = replace(alive[name], phase=Phase.STOPPED, since_at=now_at)
                case Forget(name):
                    alive.pop(name, None)
        found = list(alive.values())
    live = [i for i in found if i.phase not in (Phase.STOPPED, Phase.DRAINING)]
    assert all(i.phase is Phase.READY for i in live)
    for release in ("v1", "v2"):
        assert sum(i.release == release for i in live) == wanted.get(release, 0)


@given(st.lists(instances, max_size=8), st.floats(100, 200))
def test_only_failures_count_as_crashes(found: list[Instance], now_at: float) -> None:
    count, _ = crashes(found, now_at)
    assert count <= sum(i.failed for i in found)

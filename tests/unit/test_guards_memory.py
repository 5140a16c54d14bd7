"""What guards hand to the process that comes after theirs."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.resilience.breaker import breaker
from gapless.resilience.breaker_state import Mode
from gapless.resilience.breaker_window import CallWindow, Last, TimeWindow, after
from gapless.resilience.budget import Budget, Ratio, ratio
from gapless.resilience.errors import BreakerOpen, RateLimited, Transient
from gapless.resilience.guard import guard
from gapless.resilience.guards import OLD_S, Guards
from gapless.resilience.hedge import hedge
from gapless.resilience.hedge_delay import LEARN
from gapless.resilience.limit import adaptive, limit
from gapless.resilience.memory import LONGEST_KEY, MARK, VERSION, Names, decode, portable
from gapless.resilience.policy import Policy
from gapless.resilience.rate import rate, top
from gapless.resilience.retry_layer import retry
from gapless.testing import FakeWorld

UPTIME_S = 5_000.0


class Successor(FakeWorld):
    """A process that begins when the one before has run for UPTIME_S: the same date, another clock."""

    def time(self) -> float:
        return super().time() + UPTIME_S


def before(*policies: Policy) -> tuple[FakeWorld, Guards]:
    world = FakeWorld()
    world.stall(UPTIME_S)
    guards = Guards(world)
    guards.define("pay", *policies)
    return world, guards


def handed(
    old: Guards, *policies: Policy, after_s: float = 0.0, limit_bytes: int = 100_000
) -> tuple[FakeWorld, Guards]:
    """The successor, into which what `old` remembers was loaded after so long."""
    world = Successor()
    guards = Guards(world)
    guards.define("pay", *policies)
    content = old.dump_state(limit_bytes)
    world.stall(after_s)
    guards.load_state(content)
    return world, guards


def call(guards: Guards, error: Exception | None = None, **given: Any) -> None:
    with guards.get("pay").enter(**given):
        if error:
            raise error


def fail(guards: Guards, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            call(guards, ConnectionError("refused"))


def state(guards: Guards, policy: str = "breaker") -> dict[str, Any]:
    found: dict[str, Any] = guards.get("pay").statistics()["policies"][policy]
    return found


# Breakers.


@pytest.mark.parametrize("window", [10, "10s"])
def test_a_breaker_s_window_goes_on(window: int | str) -> None:
    rules = breaker(rate=0.5, window=window, minimum=4)
    _, old = before(rules)
    fail(old, 3)
    _, new = handed(old, rules)
    assert state(new)["window_failed"] == 3
    fail(new, 1)
    assert state(new)["state"] == "open"


def test_an_open_breaker_opens_its_door_when_the_old_one_would_have() -> None:
    rules = breaker(rate=0.5, minimum=4, open_for=10.0)
    world, old = before(rules)
    fail(old, 4)
    left_s = old.get("pay").layers()["breaker"].state.until - world.now()  # type: ignore[attr-defined]
    world, new = handed(old, rules, after_s=3.0)
    with pytest.raises(BreakerOpen) as caught:
        call(new)
    assert caught.value.retry_after_s == pytest.approx(left_s - 3.0, abs=1e-5)
    world.stall(left_s - 3.0 + 1e-3)
    call(new)
    assert state(new)["state"] == "half-open"


def test_growing_open_times_go_on_growing() -> None:
    rules = breaker(rate=0.5, minimum=4, probes=1)
    world, old = before(rules)
    fail(old, 4)
    for _ in range(3):
        world.stall(60.0)
        fail(old, 1)
    world, new = handed(old, rules)
    world.stall(60.0)
    fail(new, 1)
    known = new.get("pay").layers()["breaker"].state  # type: ignore[attr-defined]
    assert known.open_s > 16 * 0.8


def test_probes_under_way_are_asked_anew() -> None:
    rules = breaker(rate=0.5, minimum=4, probes=1, open_for=1.0)
    world, old = before(rules)
    fail(old, 4)
    world.stall(2.0)
    with old.get("pay").enter():
        assert state(old)["state"] == "half-open"
        _, new = handed(old, rules)
    call(new)
    assert state(new)["state"] == "closed"


@pytest.mark.parametrize(("mode", "said"), [("open", Mode.FORCED_OPEN), ("disabled", Mode.DISABLED)])
def test_a_forced_breaker_stays_forced(mode: str, said: Mode) -> None:
    _, old = before(breaker())
    old.force("pay", mode)
    _, new = handed(old, breaker())
    assert state(new)["state"] == said


def test_a_breaker_that_has_opened_already_stays_so() -> None:
    rules = breaker(rate=0.5, minimum=4)
    _, old = before(rules)
    content = old.dump_state()
    new = Guards(Successor())
    new.define("pay", rules)
    fail(new, 4)
    new.load_state(content)
    assert state(new)["state"] == "open"


slices = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3)), max_size=40)


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30))
def test_two_windows_of_calls_are_one(old: list[int], new: list[int]) -> None:
    first, second, whole = CallWindow(20), CallWindow(20), CallWindow(20)
    for outcome in old:
        first.add(outcome, 0.0)
    for outcome in new:
        second.add(outcome, 0.0)
    for outcome in [*old, *new]:
        whole.add(outcome, 0.0)
    found = after(first.dump(0.0), second, Last(calls=20), 0.0, 0.0)
    assert isinstance(found, CallWindow)
    assert found.remembered() == whole.remembered()


@given(slices, st.integers(0, 160))
def test_a_window_of_seconds_knows_the_same_on_another_clock(calls: list[tuple[int, int]], quarters: int) -> None:
    old = TimeWindow(10.0)
    for at, outcome in sorted(calls):
        old.add(outcome, at / 4)
    shift, later = -1_234.5, 30.1 + quarters / 4
    new = after(old.dump(30.0), TimeWindow(10.0), Last(seconds=10.0), 30.0 + shift, later + shift)
    old.add(0, later)
    new.add(0, later + shift)
    assert (new.count, new.failed, new.slow) == (old.count, old.failed, old.slow)


# Rates.


def exhausted(world: FakeWorld, guards: Guards, key: Any, calls: int) -> None:
    for _ in range(calls):
        call(guards, user=key)


@pytest.mark.parametrize(
    "policy",
    [
        rate("10/min", key="{user}"),
        rate("10/min", key="{user}", hot=top(100)),
        rate("10/min", key="{user}", mode="sliding"),
        rate("10/min", key="{user}", mode="leaky", queue=0),
        rate("1/min", key="{user}", overrides={"ada": "10/min"}),
    ],
    ids=["token", "hot", "sliding", "leaky", "override"],
)
def test_who_has_used_up_a_rate_is_refused_in_the_next_process_too(policy: Policy) -> None:
    world, old = before(policy)
    with pytest.raises(RateLimited):
        exhausted(world, old, "ada", 11)
    with pytest.raises(RateLimited) as was:
        call(old, user="ada")
    _, new = handed(old, policy)
    with pytest.raises(RateLimited) as now:
        call(new, user="ada")
    assert was.value.retry_after_s
    assert now.value.retry_after_s
    assert now.value.retry_after_s == pytest.approx(was.value.retry_after_s, abs=1e-3)
    call(new, user="bob")


def test_time_between_the_two_processes_fills_buckets() -> None:
    policy = rate("10/min", key="{user}")
    world, old = before(policy)
    exhausted(world, old, "ada", 10)
    _, new = handed(old, policy, after_s=12.5)
    exhausted(world, new, "ada", 2)
    with pytest.raises(RateLimited):
        call(new, user="ada")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 20.0)), max_size=40), st.integers(0, 40))
def test_a_restart_in_between_changes_no_verdict(calls: list[tuple[str, float]], cut: int) -> None:
    policy = rate("5/30s", key="{user}")
    world, only = before(policy)
    other, parted = before(policy)
    for place, (user, pause_s) in enumerate(calls):
        if place == cut:
            other, parted = handed(parted, policy)
        verdicts = []
        for clock, guards in ((world, only), (other, parted)):
            clock.stall(pause_s)
            try:
                call(guards, user=user)
                verdicts.append(0.0)
            except RateLimited as error:
                verdicts.append(error.retry_after_s or 0.0)
        assert verdicts[0] == pytest.approx(verdicts[1], abs=1e-3)


def test_keys_that_mean_nothing_elsewhere_stay() -> None:
    policy = rate("1/min", key="{user}")
    _, old = before(policy)
    keys = ["a", b"b", 3, 2.5, True, None, ("t", 1), object(), "x" * (LONGEST_KEY + 1), 1 << 70, frozenset("f")]
    for key in keys:
        call(old, user=key)
    _, new = handed(old, policy)
    refused = []
    for key in keys:
        try:
            call(new, user=key)
        except RateLimited:
            refused.append(key)
    assert refused == [key for key in keys if portable(key)] == keys[:7]


def test_names_are_bounded_and_the_refused_ones_stay() -> None:
    names = Names()
    for n in range(5 * Names.MOST):
        names.note(n, n)
        if n % 100 == 0:
            names.note(-1, "ada")
    kept = dict(names)
    assert len(kept) <= 2 * Names.MOST
    assert kept[-1] == "ada"


# Estimates and budgets.


def test_an_adaptive_limit_does_not_begin_anew() -> None:
    policy = limit(adaptive(max=200))
    _, old = before(policy)
    learnt = old.get("pay").layers()["limit"].state  # type: ignore[attr-defined]
    learnt.gradient.limit, learnt.gradient.own_s, learnt.gradient._starting = 77.0, 0.012, False
    _, new = handed(old, policy)
    assert state(new, "limit")["limit"] == 77
    assert new.get("pay").layers()["limit"].state.gradient.own_s == 0.012  # type: ignore[attr-defined]
    _, less = handed(old, limit(adaptive(max=50)))
    assert state(less, "limit")["limit"] == 50


async def test_a_hedge_knows_what_is_slow() -> None:
    policy = hedge(after="p95", idempotent=True)
    _, old = before(policy)
    delay = old.get("pay").layers()["hedge"].state.delay  # type: ignore[attr-defined]
    delay.fresh += [0.010] * LEARN
    _, new = handed(old, policy)
    assert state(new, "hedge")["after_s"] == pytest.approx(0.010, rel=0.07)


def test_a_spent_budget_is_not_full_again() -> None:
    policy = retry(attempts=3, budget=ratio(0.2, floor_per_s=1.0, burst=10.0), idempotent=True)
    _, old = before(policy)
    budget = old.get("pay")._common.budget
    assert budget is not None
    while budget.withdraw():
        pass
    _, new = handed(old, policy, after_s=2.5)
    found = new.get("pay")._common.budget
    assert found is not None
    assert found.left() == pytest.approx(2.5, abs=1e-3)


@given(st.floats(0, 50), st.floats(0, 100))
def test_an_inherited_budget_is_never_more_than_this_one_s(tokens: float, ago_s: float) -> None:
    world = FakeWorld()
    world.stall(1_000.0)
    budget = Budget(Ratio(), world)
    assert budget.withdraw()
    budget.inherit(tokens, world.now() - ago_s)
    assert 0.0 <= budget.left() <= 9.0


# The whole.


def many_keys(count: int) -> Guards:
    world, guards = before(breaker(), rate("10/min", key="{user}"), rate("5/s"))
    for n in range(count):
        call(guards, user=f"user-{n}")
    for n in range(0, count, 10):
        exhausted(world, guards, f"user-{n}", 3)
    return guards


@pytest.mark.parametrize("limit_bytes", [0, 10, 60, 100, 200, 500, 2_000, 100_000])
def test_no_more_than_what_may_be_and_what_matters_most_first(limit_bytes: int) -> None:
    _, guards = before(breaker(), rate("1000/min", key="{user}"), rate("100000/s"))
    for n in range(200):
        for _ in range(4 if n % 10 == 0 else 1):
            call(guards, user=f"user-{n}")
    content = guards.dump_state(limit_bytes)
    assert len(content) <= limit_bytes
    if limit_bytes < 500:
        return
    parts = {part.place: part.memory for part in decode(content)[1]}
    assert parts["breaker"].form == "breaker"
    kept = [key for key, _ in parts["rate"].keys]
    assert all(int(key.removeprefix("user-")) % 10 == 0 for key in kept[:20])
    assert len(kept) == 200 or limit_bytes < 100_000


def test_a_guard_that_is_defined_later_gets_its_part_then() -> None:
    policy = rate("1/min", key="{user}")
    _, old = before(policy)
    call(old, user="ada")
    new = Guards(Successor())
    new.get("pay")
    new.load_state(old.dump_state())
    new.take('pay: {rate: {limit: 1/min, key: "{user}"}}', "guards.yaml")
    with pytest.raises(RateLimited):
        call(new, user="ada")


def test_guards_made_elsewhere_can_be_taken_in() -> None:
    world = FakeWorld()
    pay = guard("pay", rate("1/min"), world=world)
    guards = Guards(world)
    assert guards.add(pay) is guards.add(pay) is guards.get("pay")
    with pytest.raises(ConfigError, match="another guard 'pay'"):
        guards.add(guard("pay", world=world))
    call(guards)
    new = Guards(world)
    new.load_state(guards.dump_state())
    new.add(guard("pay", rate("1/min"), world=world))
    with pytest.raises(RateLimited):
        call(new)


def test_other_policies_leave_what_they_do_not_know(caplog: pytest.LogCaptureFixture) -> None:
    _, old = before(retry(idempotent=True), breaker(), rate("1/min", key="{user}"))
    call(old, user="ada")
    with caplog.at_level(logging.WARNING):
        _, new = handed(old, rate("1/min", key="{user}", mode="sliding"))
    call(new, user="ada")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("is not taken over" in line for line in said)


@pytest.mark.parametrize(
    "content",
    [
        b"?",
        b"\xc1",
        msgspec.msgpack.encode({MARK: VERSION + 1, "at": 0.0, "parts": []}),
        msgspec.msgpack.encode({MARK: VERSION, "parts": []}),
        msgspec.msgpack.encode({MARK: VERSION, "at": 0.0, "parts": [["pay"]]}),
        msgspec.msgpack.encode({MARK: VERSION, "at": math.nan, "parts": []}),
        msgspec.msgpack.encode([1, 2]),
    ],
)
def test_what_is_not_understood_is_left_out_and_told(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    guards = Guards(FakeWorld())
    with caplog.at_level(logging.WARNING):
        guards.load_state(content)
    assert len(caplog.records) == 1
    assert "not understood" in caplog.text


def test_what_is_old_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    _, old = before(rate("1/d"))
    call(old)
    with caplog.at_level(logging.WARNING):
        _, new = handed(old, rate("1/d"), after_s=OLD_S + 1)
    call(new)
    assert "s old" in caplog.text


everything = (
    retry(idempotent=True),
    hedge(idempotent=True),
    breaker(window="10s"),
    rate("10/min", key="{user}"),
    rate("10/min", key="{user}", hot=top(10)),
    rate("10/min", key="{user}", mode="sliding"),
    rate("10/min", key="{user}", mode="leaky"),
    limit(adaptive(100)),
)


def full() -> bytes:
    _, old = before(*everything)
    for user in ("ada", "bob", 3):
        call(old, user=user)
    with pytest.raises(Transient):
        call(old, Transient(""), user="ada")
    return old.dump_state()


FULL = full()
values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def works(guards: Guards) -> None:
    """Whatever was loaded, it is a guard as any other."""
    guards.dump_state()
    for _ in range(3):
        with contextlib.suppress(RateLimited, BreakerOpen):
            call(guards, user="ada")


@given(st.binary(max_size=100) | values.map(msgspec.msgpack.encode))
def test_no_bytes_hinder_a_start(content: bytes) -> None:
    _, guards = before(*everything)
    guards.load_state(content)
    works(guards)


@given(st.data())
def test_no_broken_state_hinders_a_start(data: st.DataObject) -> None:
    """Any one value somewhere in it is another one."""
    document = msgspec.msgpack.decode(FULL)
    part = data.draw(st.sampled_from(document["parts"]))
    place, key = data.draw(st.sampled_from(_places(part)))
    place[key] = data.draw(values)
    new = Guards(Successor())
    new.define("pay", *everything)
    new.load_state(msgspec.msgpack.encode(document))
    works(new)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in it."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    inner = [place for _, each in pairs if isinstance(each, (list, dict)) for place in _places(each)]
    return [*((value, key) for key, _ in pairs), *inner]

"""Retries: where they are safe, what they may cost, and that they end with the deadline."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.resilience import deadline as clock
from gapless.resilience.breaker import breaker
from gapless.resilience.budget import Budget, Ratio, ratio
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import DeadlineExceeded, Overloaded, Transient, Unsent
from gapless.resilience.events import CallRetried, GuardEvent, RetriesSpent
from gapless.resilience.guard import guard, idempotent
from gapless.resilience.hedge import hedge
from gapless.resilience.limit import limit
from gapless.resilience.retry import backoff, retry_after_s
from gapless.resilience.retry_layer import retry
from gapless.testing import FakeWorld
from tests.unit.guard_kit import Script, cancel_everywhere, guarded, outcome

PLENTY = ratio(1.0, burst=1000.0)


class Answer:
    def __init__(self, status: int, **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


async def test_it_asks_again_until_it_is_answered() -> None:
    world = FakeWorld()
    shop = guarded(world, retry(attempts=3))
    script = Script(world, Transient("1"), Unsent("2"), "answer")
    assert await outcome(world, shop(script.ask)()) == "answer"
    assert script.calls == 3
    script = Script(world, Transient("1"), Unsent("2"), "answer")
    assert shop(script.ask_sync)() == "answer"
    counts = shop.statistics()["policies"]["retry"]
    assert (counts["retried"], counts["recovered"]) == (4, 2)


async def test_the_last_failure_comes_out_unchanged() -> None:
    world = FakeWorld()
    last = Transient("3")
    ends = (Transient("1"), Transient("2"), last)
    assert await outcome(world, guarded(world, retry())(Script(world, *ends).ask)()) is last
    with pytest.raises(Transient) as raised:
        guarded(world, retry())(Script(world, *ends).ask_sync)()
    assert raised.value is last


async def test_other_failures_and_refusals_are_not_tried_again() -> None:
    world = FakeWorld()
    for error in (TypeError("bug"), Overloaded("full"), ValueError("x")):
        script = Script(world, error)
        assert await outcome(world, guarded(world, retry())(script.ask)()) is error
        assert script.calls == 1
    script = Script(world, ValueError("x"), ValueError("again"), 1)
    assert await outcome(world, guarded(world, retry(lambda error: "x" in str(error)))(script.ask)())
    assert script.calls == 2


async def test_bad_results_are_tried_again_and_given_back_in_the_end() -> None:
    world = FakeWorld()
    shop = guarded(world, retry(result=lambda answer: answer == "bad"))
    assert await outcome(world, shop(Script(world, "bad", "good").ask)()) == "good"
    assert await outcome(world, shop(Script(world, "bad").ask)()) == "bad"
    assert shop(Script(world, "bad").ask_sync)() == "bad"


# Only where it is safe


async def test_what_might_happen_twice_is_refused_when_it_is_guarded() -> None:
    async def charge(user: str) -> None: ...

    @idempotent
    async def read(user: str) -> None: ...

    with pytest.raises(ConfigError, match=r"would retry .*charge on Transient(.|\n)*@idempotent"):
        guard("g", retry(Transient))(charge)
    for policy in (retry(idempotent=True), retry(key="{user}"), retry(Unsent)):
        guard("g", policy)(charge)
    guard("g", retry())(read)


async def test_without_a_key_only_what_was_never_sent_is_tried_again() -> None:
    world = FakeWorld()
    shop = guarded(world, retry())
    for error, calls in ((Transient("sent"), 1), (Unsent("not"), 3)):
        script = Script(world, error)
        assert await outcome(world, shop(script.ask)(idempotency_key="")) is error
        assert script.calls == calls
    script = Script(world, Unsent("not"), 5)
    assert await outcome(world, guarded(world, retry(Unsent))(script.ask)(idempotency_key="")) == 5


# In time


@given(st.floats(0.05, 5), st.lists(st.floats(0.01, 2), min_size=1, max_size=6), st.floats(0, 2), st.integers(0, 2**32))
def test_no_pause_and_no_attempt_goes_beyond_the_deadline(
    limit_s: float, takes: list[float], asked_s: float, seed: int
) -> None:
    async def run() -> None:
        world = FakeWorld(seed)
        began: list[float] = []

        async def ask() -> None:
            began.append(world.now())
            await world.sleep(takes[min(len(began), len(takes)) - 1])
            error = Transient("x")
            error.retry_after_s = asked_s
            raise error

        shop = guarded(world, deadline(limit_s), retry(idempotent=True, attempts=6, budget=PLENTY))
        task = asyncio.ensure_future(shop(ask)())
        await world.advance(limit_s + 1e-6)
        await world.advance(0.002)
        assert task.done()
        assert isinstance(task.exception(), Transient | DeadlineExceeded)
        assert all(at < limit_s for at in began)
        assert world.pending == 0

    asyncio.run(run())


async def test_a_pause_that_took_too_long_starts_nothing() -> None:
    world = FakeWorld()
    shop = guarded(world, retry(base=0.5, cap=0.5))
    script = Script(world, Transient("x"), 1)
    token = clock.current.set(1.0)
    task = asyncio.ensure_future(shop(script.ask)())
    await world.settle()
    clock.current.reset(token)
    world.stall(5.0)
    await world.advance(0.0)
    assert isinstance(task.exception(), Transient)
    assert script.calls == 1
    assert shop.statistics()["policies"]["retry"]["spent_deadline"] == 1


async def test_one_attempt_has_a_limit_apart_from_the_deadline() -> None:
    world = FakeWorld()
    shop = guarded(world, deadline(10.0), retry(each=1.0, cap=0.0))
    script = Script(world, 30.0, "quick")
    assert await outcome(world, shop(script.ask)()) == "quick"
    assert script.at == [0.0, 1.0]
    found = await outcome(world, shop(Script(world, 30.0).ask)())
    assert isinstance(found, DeadlineExceeded)
    assert found.policy == "retry"


@pytest.mark.parametrize("asked", [1.5, "2", "Tue, 14 Nov 2023 22:13:23 GMT"])
async def test_a_retry_after_is_waited_for(asked: Any) -> None:
    world = FakeWorld()  # whose epoch is Tue, 14 Nov 2023 22:13:20 GMT
    error = Transient("x")
    if isinstance(asked, float):
        error.retry_after_s = asked
    else:
        error.response = Answer(503, retry_after=asked)  # type: ignore[attr-defined]
    seconds = {1.5: 1.5, "2": 2.0}.get(asked, 3.0)
    script = Script(world, error, 1)
    assert await outcome(world, guarded(world, retry())(script.ask)()) == 1
    assert seconds <= script.at[1] <= seconds + 0.025 + 1e-9


async def test_a_retry_after_that_is_too_far_ends_the_retries_at_once() -> None:
    world = FakeWorld()
    answer = Answer(503, retry_after="60")
    script = Script(world, answer)
    shop = guarded(world, retry(result=lambda given: given.status == 503))
    assert await outcome(world, shop(script.ask)()) is answer
    assert (world.now(), script.calls) == (0.0, 1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0), ("", 0), ("soon", 0), ("-5", 0), ("7", 7), (b"7", 7), (2.5, 2.5), (-1, 0), ("9" * 13, 0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90), ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("Blu, 99 GMT", 0),
    ],
)  # fmt: skip
def test_what_a_retry_after_says(value: Any, seconds: float) -> None:
    assert retry_after_s(value, 10.0) == seconds


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True))
def test_a_backoff_is_fully_jittered_below_its_cap(attempt: int, dice: float) -> None:
    assert 0 <= backoff(0.025, 0.25, attempt, dice) <= min(0.25, 0.025 * 2.0 ** max(attempt - 1, 0))
    assert backoff(0.025, 0.25, attempt, 0.0) == 0.0


# What it may cost


async def test_a_total_outage_is_amplified_by_a_fifth_at_most() -> None:
    """Defect of nearly every retry there is: three attempts treble an outage (resilience4j#172)."""
    world = FakeWorld()
    shop = guarded(world, retry(attempts=3, base=0.0))
    script = Script(world, Transient("down"))
    ask = shop(script.ask_sync)
    calls = 5000
    for _ in range(calls):
        world.pause(0.01)
        with pytest.raises(Transient):
            ask()
    assert script.calls <= calls * 1.2 + 10
    assert script.calls >= calls * 1.19


async def test_guards_may_share_a_budget_and_a_reload_keeps_it() -> None:
    world = FakeWorld()
    shared = Budget(ratio(0.0, floor_per_s=0.0, burst=3.0), world)
    shops = [guarded(world, retry(attempts=2, budget=shared, base=0.0)) for _ in range(2)]
    scripts = [Script(world, Transient("down")) for _ in shops]
    for shop, script in zip(shops * 3, scripts * 3, strict=True):
        await outcome(world, shop(script.ask)())
    assert sum(script.calls for script in scripts) == 6 + 3
    alone = guarded(world, retry(attempts=2, budget=ratio(0.0, floor_per_s=0.0, burst=2.0), base=0.0))
    script = Script(world, Transient("down"))
    for _ in range(4):
        await outcome(world, alone(script.ask)())
        alone.replace(retry(attempts=2, budget=ratio(0.0, floor_per_s=0.0, burst=2.0), base=0.0))
    assert script.calls == 4 + 2


def test_all_policies_of_a_guard_have_the_budget_that_the_outermost_asks_for() -> None:
    world = FakeWorld()
    shared = Budget(ratio(0.5), world)
    shop = guarded(world, retry(idempotent=True), hedge(idempotent=True, budget=shared))
    assert shop._common.budget is shared
    shop.replace(retry(idempotent=True, budget=ratio(0.3)), hedge(idempotent=True, budget=ratio(0.1)))
    own = shop._common.budget
    assert own is not None
    assert (own.ratio, shared.ratio) == (ratio(0.3), ratio(0.5))
    shop.replace(retry(idempotent=True, budget=ratio(0.4)))
    assert (shop._common.budget, own.ratio) == (own, ratio(0.4))


@given(st.lists(st.tuples(st.sampled_from("cwr"), st.floats(0, 0.5)), max_size=80))
def test_the_budget_is_the_plain_reference(steps: list[tuple[str, float]]) -> None:
    world = FakeWorld()
    budget = Budget(Ratio(0.2, 1.0, 3.0), world)
    granted, calls = 0, 0
    tokens, counted, at = 3.0, 0, 0.0
    for step, later_s in steps:
        world.pause(later_s)
        if step == "c":
            calls += 1
            budget.calls += 1
        elif step == "w":
            tokens = min(tokens + max((calls - counted) * 0.2, world.now() - at), 3.0)
            counted, at = calls, world.now()
            expected = tokens >= 1.0
            tokens -= expected
            assert budget.withdraw() == expected
            granted += expected
        else:
            budget.refund()
            tokens = min(tokens + 1.0, 3.0)
            granted -= 1
    assert granted <= 3 + 0.2 * calls + world.now() + 1e-6


# The rest


async def test_retries_and_their_end_are_told() -> None:
    world = FakeWorld()
    shop = guarded(world, retry(attempts=2))
    heard: list[GuardEvent] = []
    shop.subscribe(heard.append)
    await outcome(world, shop(Script(world, Transient("x")).ask)())
    assert isinstance(heard[0], CallRetried)
    assert isinstance(heard[1], RetriesSpent)
    assert (heard[0].attempt, heard[1].reason) == (1, "attempts")


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"each": 0.0}, {"each": math.nan}, {"base": -1.0}])
def test_numbers_that_cannot_be_done_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retry(**wrong)


async def test_cancelled_at_every_await_the_whole_pipeline_leaks_nothing() -> None:
    def start() -> Any:
        world = FakeWorld()
        script = Script(world, Transient("x"), 1.0, Transient("y"), 0.5)

        async def ask(idempotency_key: str) -> Any:
            await asyncio.sleep(0)
            await script.ask()
            await asyncio.sleep(0)
            raise Transient("z")

        shop = guarded(world, deadline(20.0), retry(attempts=3), breaker(minimum=50), limit(1, queue=5))
        call = shop(ask)

        async def beside() -> None:
            await asyncio.gather(*(call("k") for _ in range(2)), return_exceptions=True)

        other = asyncio.ensure_future(beside())

        def check() -> None:
            assert other.done()
            assert world.pending == 0
            assert shop.statistics()["policies"]["limit"]["busy"] == 0
            assert clock.current.get() == math.inf

        return world, call("k"), check

    assert await cancel_everywhere(start) >= 3

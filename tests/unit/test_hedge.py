"""Hedges: when they start, who wins, and that nobody is left running."""

from __future__ import annotations

import asyncio
import math
from inspect import signature
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.core.world import RealWorld
from gapless.resilience import deadline
from gapless.resilience.breaker import breaker
from gapless.resilience.budget import Budget, Ratio
from gapless.resilience.events import CallHedged, HedgeEnded
from gapless.resilience.hedge import HedgeLayer, hedge
from gapless.resilience.hedge_delay import LEARN, LONGEST_S, Quantile, bound, index
from gapless.resilience.policy import Binding, Common, Site
from gapless.testing.world import FakeWorld

SITE = Site(name="call", idempotent=True)


def bound_to(world: FakeWorld, *args: Any, hooks: Any = (), kinds: Any = ("hedge",), **more: Any) -> HedgeLayer:
    binding = Binding(guard="g", world=world, now=world.now, kinds=kinds, common=Common(hooks=hooks))
    layer = hedge(*args, **more).bind(binding)
    assert isinstance(layer, HedgeLayer)
    return layer


class Other:
    """The other side: attempt n takes `plan[n]` seconds, and then answers n or raises."""

    def __init__(self, world: FakeWorld, *plan: float | tuple[float, BaseException]) -> None:
        self.world, self.plan = world, plan
        self.began: list[float] = []
        self.ended: list[tuple[int, str]] = []

    async def __call__(self, args: Any, kwargs: Any) -> int:
        number = len(self.began)
        self.began.append(self.world.now())
        step = self.plan[number]
        took_s, error = step if isinstance(step, tuple) else (step, None)
        try:
            await self.world.sleep(took_s)
        except asyncio.CancelledError:
            self.ended.append((number, "cancelled"))
            raise
        self.ended.append((number, "failed" if error else "answered"))
        if error:
            raise error
        return number


async def outcome(world: FakeWorld, call: Any, seconds: float) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(call((), {}))
    await world.advance(seconds)
    return task


async def test_a_quick_call_starts_no_hedge_and_leaves_no_timer() -> None:
    world = FakeWorld()
    other = Other(world, 0.5)
    task = await outcome(world, bound_to(world, 1.0).around(other, SITE), 0.5)
    assert world.pending == 1  # one timer for all calls; it rings once, and finds nobody
    await world.advance(0.5)
    assert (task.result(), other.began, world.pending) == (0, [0.0], 0)


async def test_the_hedge_wins_and_the_first_attempt_is_cancelled() -> None:
    world, seen = FakeWorld(), list[Any]()
    other = Other(world, 100, 1)
    layer = bound_to(world, 1.0, hooks=(seen.append,))
    task = await outcome(world, layer.around(other, SITE), 2.0)
    assert (task.result(), other.began) == (1, [0.0, 1.0])
    assert other.ended == [(1, "answered"), (0, "cancelled")]
    assert task.cancelling() == world.pending == 0
    assert [type(each) for each in seen] == [CallHedged, HedgeEnded]
    assert layer.statistics() == {"hedged": 1, "won": 1, "spared": 0, "after_s": 1.0}


async def test_the_first_attempt_wins_and_the_hedge_is_cancelled_and_waited_for() -> None:
    world = FakeWorld()
    other = Other(world, 1.5, 100)
    task = await outcome(world, bound_to(world, 1.0).around(other, SITE), 1.5)
    assert task.result() == 0
    assert other.ended == [(0, "answered"), (1, "cancelled")]
    assert world.pending == 0


async def test_a_first_attempt_that_fails_waits_for_the_hedge_under_way() -> None:
    world = FakeWorld()
    other = Other(world, (1.5, OSError("first")), 1)
    task = await outcome(world, bound_to(world, 1.0).around(other, SITE), 1.7)
    assert not task.done()
    await world.advance(0.3)
    assert task.result() == 1


async def test_when_both_fail_the_first_failure_is_told() -> None:
    world = FakeWorld()
    other = Other(world, (1.5, OSError("first")), (1, OSError("second")))
    task = await outcome(world, bound_to(world, 1.0).around(other, SITE), 2.0)
    assert str(task.exception()) == "first"


async def test_a_hedge_that_fails_changes_nothing() -> None:
    world = FakeWorld()
    other = Other(world, 3.0, (1, OSError("second")))
    task = await outcome(world, bound_to(world, 1.0).around(other, SITE), 3.0)
    assert task.result() == 0


async def test_a_failure_before_the_hedge_is_due_is_told_at_once() -> None:
    world = FakeWorld()
    other = Other(world, (0.5, OSError("first")))
    task = await outcome(world, bound_to(world, 1.0).around(other, SITE), 0.5)
    assert str(task.exception()) == "first"
    await world.advance(5)
    assert other.began == [0.0]


async def test_up_to_max_hedges_one_after_the_other() -> None:
    world = FakeWorld()
    other = Other(world, 100, 100, 0.5, 100)
    task = await outcome(world, bound_to(world, 1.0, max=2, share=1.0).around(other, SITE), 5)
    assert (task.result(), other.began) == (2, [0.0, 1.0, 2.0])
    assert sorted(other.ended) == [(0, "cancelled"), (1, "cancelled"), (2, "answered")]


@pytest.mark.parametrize("at", [0.5, 1.0, 1.5])
async def test_a_client_that_goes_away_ends_every_attempt(at: float) -> None:
    world = FakeWorld()
    other = Other(world, 100, 100)
    task = await outcome(world, bound_to(world, 1.0).around(other, SITE), at)
    task.cancel()
    await world.settle()
    assert task.cancelled()
    await world.advance(1)
    assert len(other.ended) == len(other.began)
    assert world.pending == 0


async def test_a_client_that_goes_away_as_the_hedge_wins_is_still_gone() -> None:
    world = FakeWorld()
    other = Other(world, 100, 1)
    task = await outcome(world, bound_to(world, 1.0).around(other, SITE), 1.5)
    world.after(0.5, task.cancel)
    await world.advance(1)
    assert task.cancelled()
    assert world.pending == 0


async def test_an_outer_timeout_still_works() -> None:
    world = FakeWorld()
    other = Other(world, 100, 100)

    async def limited() -> None:
        async with deadline.within(world, 2.0):
            await bound_to(world, 1.0).around(other, SITE)((), {})

    task = asyncio.ensure_future(limited())
    await world.advance(3)
    assert isinstance(task.exception(), TimeoutError)
    assert sorted(other.ended) == [(0, "cancelled"), (1, "cancelled")]


async def test_nothing_starts_at_or_after_the_deadline() -> None:
    for end in (0.9, 1.0):
        world = FakeWorld()
        other = Other(world, 3)
        task = asyncio.ensure_future(_by(end, bound_to(world, 1.0).around(other, SITE)))
        await world.advance(3)
        assert task.result() == 0
        assert other.began == [0.0]
    world = FakeWorld()
    other = Other(world, 9)
    task = asyncio.ensure_future(_by(1.5, bound_to(world, 1.0).around(other, SITE)))
    await world.settle()
    world.stall(2.0)  # the timer rings late, after the deadline
    await world.advance(9)
    assert (task.result(), other.began) == (0, [0.0])


async def _by(end: float, call: Any) -> Any:
    deadline.current.set(end)
    return await call((), {})


async def test_one_timer_serves_calls_that_overlap() -> None:
    world = FakeWorld()
    layer = bound_to(world, 1.0)
    other = Other(world, 0.9, 3.0, 0.2, 3.0)
    call = layer.around(other, SITE)
    tasks = []
    for _ in range(3):
        tasks.append(asyncio.ensure_future(call((), {})))
        await world.advance(0.25)
    assert world.pending <= 4
    await world.advance(5)
    assert [task.result() for task in tasks] == [0, 1, 2]
    assert (other.began, world.pending) == ([0.0, 0.25, 0.5, 1.25], 0)


def test_each_loop_has_its_own_timer() -> None:
    world = RealWorld()
    binding = Binding(guard="g", world=world, now=world.now)
    asked = 0

    async def attempt(args: Any, kwargs: Any) -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(30 if asked % 2 else 0)
        return asked

    call = hedge(after=0.001).bind(binding).around(attempt, SITE)
    for answer in (2, 4):

        async def main() -> Any:
            return await call((), {})

        assert asyncio.run(main()) == answer


async def test_the_hedge_inherits_the_callers_context() -> None:
    world, seen = FakeWorld(), list[float]()

    async def attempt(args: Any, kwargs: Any) -> None:
        seen.append(deadline.current.get())
        await world.sleep(1.5)

    task = asyncio.ensure_future(_by(60.0, bound_to(world, 1.0).around(attempt, SITE)))
    await world.advance(3)
    await task
    assert seen == [60.0, 60.0]


async def test_hedges_are_a_share_of_the_calls_whatever_happens() -> None:
    world = FakeWorld()
    layer = bound_to(world, 0.1, share=0.05, budget=Ratio(1.0, 0.0, 1000.0))

    async def slow(args: Any, kwargs: Any) -> None:
        await world.sleep(0.2)

    call = layer.around(slow, SITE)
    for _ in range(400):
        task = asyncio.ensure_future(call((), {}))
        await world.advance(0.2)
        await task
    assert layer.statistics()["hedged"] <= 10 + 400 * 0.05
    assert layer.statistics()["spared"] >= 370


async def test_the_budget_is_shared_with_retry() -> None:
    world = FakeWorld()
    budget = Budget(Ratio(0.0, 0.0, 1.0), world)
    layer = bound_to(world, 1.0, budget=budget, kinds=("retry", "hedge"))
    for _ in range(2):
        other = Other(world, 2.0, 2.0)
        await (await outcome(world, layer.around(other, SITE), 2.0))
    assert (layer.statistics()["hedged"], layer.statistics()["spared"], budget.calls) == (1, 1, 0)
    alone = bound_to(world, 1.0)
    await (await outcome(world, alone.around(Other(world, 0.5), SITE), 0.5))
    assert alone.budget.calls == 1


async def test_a_quantile_is_learnt_before_anything_is_hedged() -> None:
    world = FakeWorld()
    layer = bound_to(world, "p95")

    async def attempt(args: Any, kwargs: Any) -> None:
        await world.sleep(args[0])

    call = layer.around(attempt, SITE)
    for number in range(LEARN + 50):
        task = asyncio.ensure_future(call((0.01 if number % 50 else 1.0,), {}))
        await world.advance(1.0)
        await task
    assert layer.statistics()["after_s"] == pytest.approx(0.01, rel=0.07)
    assert layer.statistics()["hedged"] <= 1


async def test_breakers_further_in_do_not_count_the_beaten() -> None:
    world = FakeWorld()
    binding = Binding(guard="g", world=world, now=world.now)
    inner = breaker(window=10).bind(binding)
    other = Other(world, 100, 1)
    task = await outcome(world, bound_to(world, 1.0).around(inner.around(other, SITE), SITE), 2.0)
    assert task.result() == 1
    await world.settle()
    assert (inner.statistics()["calls"], inner.statistics()["failed"]) == (1, 0)


async def test_a_first_attempt_that_turns_its_cancellation_into_an_error_is_beaten_all_the_same() -> None:
    world = FakeWorld()
    first = True

    async def attempt(args: Any, kwargs: Any) -> int:
        nonlocal first
        if not first:
            await world.sleep(1)
            return 2
        first = False
        try:
            await world.sleep(100)
        except asyncio.CancelledError:
            raise OSError("converted") from None
        return 1

    task = await outcome(world, bound_to(world, 1.0).around(attempt, SITE), 2.0)
    assert (task.result(), task.cancelling()) == (2, 0)


def test_only_where_asking_twice_is_safe() -> None:
    async def plain(user: str) -> None: ...
    async def keyed(user: str, idempotency_key: str = "") -> None: ...

    world = FakeWorld()
    for_plain, for_keyed = Site(name="plain", signature=signature(plain)), Site(name="k", signature=signature(keyed))
    other = Other(world)
    with pytest.raises(ConfigError, match="happen twice"):
        bound_to(world).around(other, for_plain)
    with pytest.raises(ConfigError, match="thread"):
        bound_to(world).around_sync(lambda args, kwargs: None, SITE)
    bound_to(world, idempotent=True).around(other, for_plain)
    assert bound_to(world, key="{user}")._may(for_plain)(("ann",), {}) == "ann"
    assert not bound_to(world)._may(for_keyed)(("ann",), {})


def test_a_reload_keeps_what_was_learnt() -> None:
    world = FakeWorld()
    old, new, other = bound_to(world, "p95"), bound_to(world, "p95", share=0.01), bound_to(world, "p99")
    new.adopt(old)
    assert new.state is old.state
    assert new.state.cap.ratio.share == 0.01
    learnt = old.state.delay
    other.adopt(old)
    assert other.state.delay is not learnt


@pytest.mark.parametrize("wrong", [{"after": "soon"}, {"after": 0}, {"after": "p0"}, {"max": 0}, {"share": 0.0}])
def test_numbers_that_cannot_be_meant_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        hedge(**wrong)


@given(st.floats(1e-6, 3000))
def test_a_bucket_is_never_far_above_what_fell_into_it(took_s: float) -> None:
    assert took_s <= bound(index(took_s)) <= took_s * 1.0626


def test_latencies_out_of_range_fall_into_the_outermost_buckets() -> None:
    assert index(0.0) == index(-1.0) == index(1e-12) == 0
    assert bound(index(LONGEST_S * 0.9999)) == LONGEST_S
    assert bound(0) < 1.1e-6


@given(st.lists(st.floats(2e-3, 10), min_size=LEARN, max_size=400))
def test_hardly_more_than_the_share_lies_above_the_estimate_and_just_below_it_does(latencies: list[float]) -> None:
    quantile = Quantile(0.9)
    quantile.fresh += latencies
    quantile.learn()
    wanted = 0.1 * len(latencies)
    assert sum(took_s > quantile.value_s for took_s in latencies) <= 1.25 * wanted + 2 * wanted**0.5
    assert sum(took_s >= quantile.value_s / 1.07 for took_s in latencies) > wanted


@pytest.mark.parametrize("stragglers", [40, 50, 60])
def test_stragglers_are_told_from_the_rest_whether_a_little_more_or_less_than_the_share(stragglers: int) -> None:
    quantile = Quantile(0.95)
    for number in range(1000):
        took_s = 0.1 + number / 10_000 if number < stragglers else 0.008 + number / 500_000
        quantile.fresh.append(math.inf if number % 100 == 7 and number < stragglers else took_s)
    quantile.learn()
    assert 0.0095 < quantile.value_s < 0.011


def test_when_too_many_were_ended_before_their_time_there_is_no_estimate() -> None:
    quantile = Quantile(0.95)
    quantile.fresh += [math.inf, 0.01] * 500
    quantile.learn()
    assert quantile.value_s == math.inf


def test_the_estimate_follows_a_change() -> None:
    quantile = Quantile(0.95)
    assert quantile.value_s == math.inf
    for took_s, calls in ((0.01, 5000), (0.1, 5000), (0.01, 8000)):
        for _ in range(calls // 50):
            quantile.fresh += [took_s] * 50
            quantile.learn()
        assert quantile.value_s == pytest.approx(took_s, rel=0.07)


step = st.tuples(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 100.0]), st.booleans())


@given(
    plan=st.lists(step, min_size=3, max_size=3),
    gone_at=st.sampled_from([None, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5]),
    end=st.sampled_from([math.inf, 1.0, 1.7, 2.5]),
    most=st.integers(1, 2),
)
def test_whatever_happens_nobody_is_left_running_and_the_outcome_is_that_of_some_attempt(
    plan: list[tuple[float, bool]], gone_at: float | None, end: float, most: int
) -> None:
    async def main() -> None:
        world = FakeWorld()
        steps = [(took_s, OSError(str(number))) if fails else took_s for number, (took_s, fails) in enumerate(plan)]
        other = Other(world, *steps)
        layer = bound_to(world, 1.0, max=most, share=1.0)
        task = asyncio.ensure_future(_by(end, layer.around(other, SITE)))
        if gone_at is not None:
            world.after(gone_at, task.cancel)
        await world.advance(10)
        overdue = not task.done()
        if overdue:
            task.cancel()
            await world.advance(1)
        assert len(other.ended) == len(other.began) <= 1 + most
        assert all(at < end for at in other.began)
        assert world.pending == 0
        if overdue:
            assert [how for _, how in other.ended if how == "answered"] == []
        elif not task.cancelled() and task.exception() is None:
            assert (task.result(), "answered") in other.ended
            assert task.cancelling() == 0
        elif not task.cancelled():
            assert str(task.exception()) == "0"
        else:
            assert gone_at is not None

    asyncio.run(main())

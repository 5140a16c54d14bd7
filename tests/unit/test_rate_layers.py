"""`rate` in a guard: refusals, waiting for a turn, keys, reloads. No time passes but what the test lets pass."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.resilience import deadline
from gapless.resilience.errors import DeadlineExceeded, RateLimited
from gapless.resilience.events import CallRejected
from gapless.resilience.guard import guard
from gapless.resilience.keys import NOWHERE
from gapless.resilience.policy import Site
from gapless.resilience.rate import rate, top
from gapless.resilience.rate_local import TokenBuckets
from gapless.resilience.rate_quota import quota
from gapless.testing.world import FakeWorld


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


def figures(guarded):
    return guarded.statistics()["policies"]["rate"]


def test_a_refusal_names_guard_key_and_time(world):
    ours = guard("shop", rate("2/s", key="{user}"), world=world)

    @ours
    def call(user: str) -> str:
        return user

    told = []
    ours.subscribe(told.append)
    assert [call("ann"), call(user="ann"), call("bob")] == ["ann", "ann", "bob"]
    with pytest.raises(RateLimited, match=r"shop: more than 2/1s for 'ann'") as refused:
        call("ann")
    error = refused.value
    assert (error.guard, error.policy, error.sent) == ("shop", "rate", False)
    assert error.retry_after_s == pytest.approx(0.5)
    assert "0.500 s" in error.remedy
    assert [(event.key, event.reason) for event in told if isinstance(event, CallRejected)] == [("ann", "2/1s")]
    assert {name: figures(ours)[name] for name in ("admitted", "rejected", "waited", "keys")} == {
        "admitted": 3,
        "rejected": 1,
        "waited": 0,
        "keys": 2,
    }


@given(
    calls=st.lists(st.tuples(st.sampled_from(["a", "b", ("c",)]), st.floats(0, 0.7), st.booleans()), max_size=60),
    burst=st.integers(1, 3),
)
def test_calls_get_the_verdict_of_their_bucket(calls, burst):
    """A guarded function does by itself what `TokenBuckets.acquire` does."""
    world, buckets, own = FakeWorld(), TokenBuckets(quota("5/s", burst)), list[float]()
    called = guard("shop", rate("5/s", key="{user}", burst=burst), world=world)(lambda user: own.append(0.0))
    for user, pause_s, by_name in calls:
        world.stall(pause_s)
        try:
            called(user=user) if by_name else called(user)
        except RateLimited as error:
            own.append(error.retry_after_s)
        assert own[-1] == buckets.acquire(user, world.now())


@pytest.mark.parametrize(
    ("template", "place"),
    [("{user}", 1), ("{self}", 0), ("{user.name}", None), ("{user}:{item}", None), ("all", None), ("{item}", None)],
)
def test_only_whole_arguments_by_place_have_one(template, place):
    def call(self, user, /, *rest, item): ...

    site = Site(name="call", signature=inspect.signature(call))
    assert site.place(template) == (NOWHERE if place is None else place)
    assert Site(name="enter").place(template) == NOWHERE
    assert site.place(lambda *args, **kwargs: 1) == NOWHERE


async def test_async_functions_and_enter_share_their_buckets(world):
    ours = guard("shop", rate("3/s", key="{user}"), world=world)

    @ours
    async def call(user: str) -> str:
        return user

    assert await call("ann") == "ann"
    async with ours.enter(user="ann"):
        pass
    with ours.enter(user="ann"):
        pass
    with pytest.raises(RateLimited):
        await call("ann")
    with pytest.raises(RateLimited):
        async with ours.enter(user="ann"):
            pass
    await world.advance(0.34)
    assert await call("ann") == "ann"


@pytest.mark.parametrize("how", [{}, {"mode": "sliding"}, {"hot": top(3)}])
def test_overrides_hold_for_their_values_only(world, how):
    ours = guard("shop", rate("2/s", key="{user}", overrides={"vip": "5/s", "bot": "0/s"}, **how), world=world)
    for user, count in (("ann", 2), ("vip", 5), ("bot", 0)):
        for _ in range(count):
            with ours.enter(user=user):
                pass
        with pytest.raises(RateLimited) as refused:
            ours.enter(user=user).__enter__()
        assert (refused.value.retry_after_s is None) == (user == "bot")


def test_a_key_that_gets_an_override_by_a_reload_has_its_own_bucket_from_then_on(world):
    ours = guard("shop", rate("2/s", key="{user}"), world=world)

    @ours
    def call(user: str) -> None: ...

    call("ann")
    ours.replace(rate("2/s", key="{user}", overrides={"ann": "3/s"}))
    for _ in range(3):
        call("ann")
    with pytest.raises(RateLimited, match="more than 3/1s"):
        call("ann")
    ours.replace(rate("2/s", key="{user}"))
    call("ann")
    with pytest.raises(RateLimited, match="more than 2/1s"):
        call("ann")


def test_living_keys_cost_nothing_while_nobody_calls() -> None:
    """limits keeps a thread that looks for what has expired: most of a core at a million keys."""
    world, threads = FakeWorld(), threading.active_count()
    for policy in (
        rate("9/h", key="{user}"),
        rate("9/h", key="{user}", mode="sliding"),
        rate("9/h", key="{user}", hot=top(9)),
    ):
        ours = guard("idle", policy, world=world)
        for number in range(2_000):
            with ours.enter(user=f"user-{number}"):
                pass
    assert world.pending == 0, "no timer"
    assert threading.active_count() == threads, "no thread"


def test_hot_keys_are_named(world):
    ours = guard("shop", rate("100/s", key="{user}", hot=top(3)), world=world)
    for number in range(40):
        with ours.enter(user="ann" if number % 2 else f"user {number}"):
            pass
    assert figures(ours)["hottest"][0] == ("ann", 20)


async def test_leaky_calls_wait_for_evenly_spaced_turns(world):
    ours, turns = guard("shop", rate("10/s", mode="leaky", queue=3), world=world), []

    @ours
    async def call() -> None:
        turns.append(round(world.now(), 6))

    calls = [asyncio.ensure_future(call()) for _ in range(6)]
    await world.advance(1.0)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert turns == [0.0, 0.1, 0.2, 0.3]
    refused = [each for each in results if isinstance(each, RateLimited)]
    assert [each.retry_after_s for each in refused] == [pytest.approx(0.1)] * 2
    assert (figures(ours)["admitted"], figures(ours)["waited"], figures(ours)["rejected"]) == (4, 3, 2)


async def test_no_turn_is_given_at_or_after_the_deadline(world):
    ours = guard("shop", rate("10/s", mode="leaky", queue=50), world=world)
    mark = deadline.current.set(world.now() + 0.2)
    try:
        calls = [asyncio.ensure_future(admit(ours)) for _ in range(4)]
        await world.advance(1.0)
        results = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        deadline.current.reset(mark)
    assert [type(each) for each in results] == [type(None), type(None), RateLimited, RateLimited]
    assert world.pending == 0


async def test_a_turn_that_comes_late_is_not_taken_after_the_deadline(world):
    ours = guard("shop", rate("10/s", mode="leaky", queue=50), world=world)
    mark = deadline.current.set(world.now() + 0.2)
    try:
        calls = [asyncio.ensure_future(admit(ours)) for _ in range(2)]
        await world.settle()
        world.stall(0.5)
        await world.advance(0.0)
        results = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        deadline.current.reset(mark)
    assert results[0] is None
    assert isinstance(results[1], DeadlineExceeded)


async def admit(guarded) -> None:
    async with guarded.enter():
        pass


async def test_a_cancelled_turn_is_not_lost(world):
    ours = guard("shop", rate("10/s", mode="leaky", queue=3), world=world)
    calls = [asyncio.ensure_future(admit(ours)) for _ in range(4)]
    await world.settle()
    calls[2].cancel()
    await world.settle()
    late = asyncio.ensure_future(admit(ours))
    await world.advance(0.2)
    assert late.done(), "it has the turn of the one that was cancelled"
    await world.advance(0.2)
    await asyncio.gather(*calls, return_exceptions=True)
    assert figures(ours)["admitted"] == 4
    assert world.pending == 0


def test_a_reload_keeps_what_was_used(world):
    ours = guard("shop", rate("10/s", key="{user}", overrides={"vip": "20/s"}), world=world)

    def admitted(user: str) -> int:
        count = 0
        for _ in range(50):
            try:
                with ours.enter(user=user):
                    count += 1
            except RateLimited:
                pass
        return count

    assert (admitted("ann"), admitted("vip")) == (10, 20)
    ours.replace(rate("10/s", key="{user}", burst=15, overrides={"vip": "20/s"}))
    assert (admitted("ann"), admitted("vip")) == (5, 0)
    assert figures(ours)["admitted"] == 35
    ours.replace(rate("10/s", key="{user}", mode="sliding"))
    assert admitted("ann") == 10, "another mode begins anew"
    ours.replace(rate("10/s", key="{user}", mode="leaky", queue=0))
    ours.replace(rate("20/s", key="{user}", mode="leaky", queue=0))
    assert admitted("ann") == 1

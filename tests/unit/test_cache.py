"""Cache protection, on pretended time."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from gapless.core.errors import ConfigError
from gapless.core.world import RealWorld
from gapless.resilience import deadline
from gapless.resilience.cache import cache, cached, recall
from gapless.resilience.cache_bloom import Known, UnknownKey
from gapless.resilience.cache_store import Entry, MemoryStore
from gapless.resilience.errors import DeadlineExceeded, Overloaded, Rejected, Transient
from gapless.resilience.fallback import fallback
from gapless.resilience.guard import Guard, guard
from gapless.testing.world import FakeWorld


class Shop:
    """What lies behind the cache: counts calls, takes `takes_s`, and fails when told."""

    def __init__(self, world: FakeWorld, **options: Any) -> None:
        self.world = world
        self.calls = 0
        self.takes_s = 1.0
        self.error: BaseException | None = None
        self.guard = guard("shop", cache(**{"ttl": 10.0, "key": "{sku}", "spread": 0.0} | options), world=world)
        self.price = self.guard(self._price)

    async def _price(self, sku: Any) -> Any:
        self.calls += 1
        await self.world.sleep(self.takes_s)
        if self.error:
            raise self.error
        return f"{sku}:{self.calls}"

    def count(self, name: str) -> int:
        return int(self.guard.statistics()["policies"]["cache"][name])

    def begin(self, sku: Any = "a", within: float = math.inf) -> asyncio.Task[Any]:
        token = deadline.current.set(self.world.now() + within)
        task: asyncio.Task[Any] = asyncio.ensure_future(self.price(sku))
        deadline.current.reset(token)
        return task

    async def ask(self, sku: Any = "a", within: float = math.inf) -> Any:
        """Let time pass until it is answered."""
        task = self.begin(sku, within)
        await self.world.settle()
        while not task.done():
            await self.world.advance(0.1)
        return await task


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


async def gathered(world: FakeWorld, tasks: Iterable[asyncio.Future[Any]], seconds: float = 5.0) -> list[Any]:
    tasks = list(tasks)
    await world.advance(seconds)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_stampede_is_one_call(world: FakeWorld) -> None:
    shop = Shop(world)
    answers = await gathered(world, [asyncio.ensure_future(shop.price("a")) for _ in range(1_000)])
    assert set(answers) == {"a:1"}
    assert shop.calls == 1
    assert shop.count("joined") == 999
    assert world.pending == 0


async def test_fresh_answers_cost_no_call_and_old_ones_one(world: FakeWorld) -> None:
    shop = Shop(world)
    assert [await shop.ask() for _ in range(3)] == ["a:1"] * 3
    assert await shop.ask("b") == "b:2"
    await world.advance(10)
    assert await shop.ask() == "a:3"
    assert (shop.count("hits"), shop.count("missed")) == (2, 3)


async def test_a_failure_is_everybodys_and_is_not_kept(world: FakeWorld) -> None:
    shop = Shop(world)
    shop.error = ValueError("broken")
    errors = await gathered(world, [asyncio.ensure_future(shop.price("a")) for _ in range(5)])
    assert [str(error) for error in errors] == ["broken"] * 5
    shop.error = None
    assert await shop.ask() == "a:2"


async def test_a_cancelled_leader_takes_nobody_with_him(world: FakeWorld) -> None:
    shop = Shop(world)
    leader, *others = [asyncio.ensure_future(shop.price("a")) for _ in range(5)]
    await world.advance(0.5)
    leader.cancel()
    others[1].cancel()
    answers = await gathered(world, [leader, *others])
    assert [type(answer) for answer in answers] == [asyncio.CancelledError, str, asyncio.CancelledError, str, str]
    assert shop.calls == 1


async def test_a_call_that_everybody_left_fills_the_cache(world: FakeWorld) -> None:
    shop = Shop(world)
    task = asyncio.ensure_future(shop.price("a"))
    await world.advance(0.5)
    task.cancel()
    await world.advance(1)
    assert await shop.ask() == "a:1"


async def test_waiters_obey_their_own_deadlines(world: FakeWorld) -> None:
    shop = Shop(world)
    first = shop.begin(within=0.3)
    second = shop.begin(within=5.0)
    answers = await gathered(world, [first, second])
    assert isinstance(answers[0], DeadlineExceeded)
    assert answers[1] == "a:1"
    assert shop.calls == 1


async def test_the_call_is_not_bound_to_the_deadline_of_who_was_first(world: FakeWorld) -> None:
    seen = []

    @cached(ttl=10, key="{sku}", refresh=7.0, world=world)
    async def look(sku: str) -> float:
        seen.append(deadline.current.get() - world.now())
        return 1.0

    token = deadline.current.set(world.now() + 0.3)
    await look("a")
    deadline.current.reset(token)
    await look("b")
    assert seen == [7.0, float("inf")]


async def test_nothing_begins_after_the_deadline(world: FakeWorld) -> None:
    shop = Shop(world)
    with pytest.raises(DeadlineExceeded) as caught:
        await shop.ask(within=0.0)
    assert not caught.value.started
    assert shop.calls == 0


async def test_a_call_that_hangs_is_ended(world: FakeWorld) -> None:
    shop = Shop(world, refresh=3.0)
    shop.takes_s = 1e6
    with pytest.raises(DeadlineExceeded):
        await shop.ask(within=2.0)
    await world.advance(2)
    assert shop.count("in_flight") == 0
    assert world.pending == 0


async def test_stale_answers_are_given_at_once_and_refreshed_once(world: FakeWorld) -> None:
    shop = Shop(world, stale=20.0)
    await shop.ask()
    await world.advance(11)
    begun = world.now()
    answers = [await shop.price("a") for _ in range(50)]
    assert (set(answers), world.now()) == ({"a:1"}, begun)
    await world.advance(2)
    assert await shop.ask() == "a:2"
    assert (shop.calls, shop.count("refreshed"), shop.count("stale")) == (2, 1, 50)


async def test_a_failed_refresh_is_counted_and_rests(world: FakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(world, stale=20.0)
    await shop.ask()
    await world.advance(11)
    shop.error, shop.takes_s = Transient("down"), 0.0
    for _ in range(100):
        assert await shop.price("a") == "a:1"
        await world.advance(0.01)
    assert shop.count("refresh_failed") == 1
    assert "nobody waited" in caplog.text
    await world.advance(1)
    assert await shop.price("a") == "a:1"
    await world.settle()
    assert shop.count("refresh_failed") == 2


async def test_beyond_the_stale_window_callers_wait(world: FakeWorld) -> None:
    shop = Shop(world, stale=2.0)
    await shop.ask()
    await world.advance(13)
    assert await shop.ask() == "a:2"


async def test_the_last_answer_in_place_of_a_failure(world: FakeWorld) -> None:
    shop = Shop(world, if_error=100.0)
    await shop.ask()
    await world.advance(50)
    shop.error = Overloaded("no")
    assert await shop.ask() == "a:1"
    shop.error = ValueError("our own mistake")
    with pytest.raises(ValueError, match="own mistake"):
        await shop.ask()
    shop.error = Overloaded("no")
    await world.advance(100)
    with pytest.raises(Overloaded):
        await shop.ask()
    assert shop.count("served_on_error") == 1


async def test_fallback_to_what_the_cache_has_kept(world: FakeWorld) -> None:
    store = MemoryStore()
    down = False

    @guard(
        "shop",
        fallback(recall(store, "price", lambda sku: sku), on=Rejected),
        cache(ttl=1, key="{sku}", store=store, name="price"),
        world=world,
    )
    async def price(sku: str) -> str:
        if down:
            raise Overloaded("no")
        return f"price of {sku}"

    assert await price("a") == "price of a"
    down = True
    await world.advance(1_000)
    assert await price("a") == "price of a"
    with pytest.raises(KeyError):
        await price("b")


async def test_absence_is_kept_for_a_while(world: FakeWorld) -> None:
    shop = Shop(world, negative=5.0, missing=LookupError)
    shop.error, shop.takes_s = KeyError("a"), 0.0
    for _ in range(5):
        with pytest.raises(KeyError):
            await shop.ask()
    assert (shop.calls, shop.count("negative_hits")) == (1, 4)
    await world.advance(5)
    shop.error = None
    assert await shop.ask() == "a:2"


@pytest.mark.parametrize(("negative", "calls"), [(0.0, 3), (5.0, 1)])
async def test_none_means_absent(world: FakeWorld, negative: float, calls: int) -> None:
    made = 0

    @cached(ttl=10, negative=negative, world=world)
    async def look(sku: str) -> None:
        nonlocal made
        made += 1

    assert [await look("a") for _ in range(3)] == [None] * 3
    assert made == calls


async def test_unknown_keys_are_refused_without_a_call(world: FakeWorld) -> None:
    known = Known(lambda: [f"sku-{n}" for n in range(1_000)], capacity=1_000, every=60)
    shop = Shop(world, known=known)
    shop.takes_s = 0.0
    await shop.ask("before it is loaded every key may be one")
    await world.settle()
    refused = 0
    for number in range(2_000):
        try:
            await shop.price(f"nobody-{number}")
        except UnknownKey:
            refused += 1
    assert refused > 2_000 * 0.97
    assert shop.calls == 2_000 - refused + 1
    assert await shop.price("sku-7") == f"sku-7:{shop.calls}"
    known.add("new")
    assert await shop.price("new") == f"new:{shop.calls}"


async def test_known_keys_are_loaded_without_the_deadline_of_who_was_first(world: FakeWorld) -> None:
    left: list[float] = []

    async def load() -> list[str]:
        left.append(deadline.remaining(world.now()))
        return ["a"]

    shop = Shop(world, known=Known(load))
    await shop.ask("a", within=3.0)
    assert left == [math.inf]


async def test_keys_with_the_same_text_do_not_share_an_answer(world: FakeWorld) -> None:
    @cached(ttl=10, key="{a}:{b}", world=world)
    async def look(a: Any, b: Any) -> Any:
        return (a, b)

    assert await look("x:y", "z") == ("x:y", "z")
    assert await look("x", "y:z") == ("x", "y:z")


async def test_two_functions_of_a_guard_do_not_share_answers(world: FakeWorld) -> None:
    both = guard("both", cache(ttl=10), world=world)

    @both
    async def one(sku: str) -> str:
        return "one"

    @both
    async def two(sku: str) -> str:
        return "two"

    assert (await one("a"), await two("a"), await two(sku="a")) == ("one", "two", "two")


async def test_answers_do_not_all_grow_old_at_once(world: FakeWorld) -> None:
    shop = Shop(world, spread=0.5)
    shop.takes_s = 0.0
    for sku in range(100):
        await shop.price(sku)
    await world.advance(7.5)
    for sku in range(100):
        await shop.price(sku)
    assert 20 < shop.calls - 100 < 80


async def test_a_reload_keeps_what_is_kept(world: FakeWorld) -> None:
    shop = Shop(world)
    await shop.ask()
    shop.guard.replace(cache(ttl=20, key="{sku}"))
    assert await shop.ask() == "a:1"


@pytest.mark.parametrize("passes", range(8))
async def test_cancelled_at_any_await_it_leaves_nothing(world: FakeWorld, passes: int) -> None:
    shop = Shop(world)
    tasks = [asyncio.ensure_future(shop.price("a")) for _ in range(3)]
    for _ in range(passes):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await gathered(world, tasks)
    assert shop.count("in_flight") == 0
    assert world.pending == 0
    assert await shop.ask() == f"a:{shop.calls}"


@pytest.mark.parametrize(
    "options", [{"ttl": 0}, {"ttl": 1, "stale": -1}, {"ttl": 1, "spread": 1}, {"ttl": 1, "refresh": 0}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cache"):
        cache(**options)


# Sync functions, in threads.


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(work())
        except Exception as error:  # noqa: BLE001 looked at by the test
            answers.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return answers


def test_a_stampede_of_threads_is_one_call() -> None:
    calls = []

    @Guard("shop", cache(ttl=10, key="{sku}"), world=RealWorld())
    def price(sku: str) -> int:
        calls.append(sku)
        time.sleep(0.05)
        return len(calls)

    assert in_threads(50, lambda: price("a")) == [1] * 50
    assert calls == ["a"]


def test_threads_get_the_old_answer_while_one_refreshes() -> None:
    world = FakeWorld()
    calls = 0
    fail = False

    @Guard("shop", cache(ttl=10, stale=100, spread=0.0), world=world)
    def price(sku: str) -> int:
        nonlocal calls
        calls += 1
        if fail:
            raise ValueError("broken")
        time.sleep(0.02 if calls > 1 else 0)
        return calls

    price("a")
    world.stall(11)
    assert set(in_threads(20, lambda: price("a"))) <= {1, 2}
    assert calls == 2
    fail = True
    world.stall(11)
    assert price("a") == 2


def test_a_thread_waits_no_longer_than_its_deadline() -> None:
    world = RealWorld()
    begun, go = threading.Event(), threading.Event()

    @Guard("shop", cache(ttl=10), world=world)
    def price(sku: str) -> int:
        begun.set()
        go.wait(20)
        return 1

    leader = threading.Thread(target=price, args=("a",))
    leader.start()
    begun.wait(20)
    token = deadline.current.set(world.now() + 0.02)
    with pytest.raises(DeadlineExceeded):
        price("a")
    deadline.current.reset(token)
    go.set()
    leader.join(20)


def test_what_was_filled_while_a_thread_was_looking_is_not_called_for_again() -> None:
    world = FakeWorld()

    class Late(MemoryStore):
        """Another thread fills it right after the first look."""

        looks = 0

        def peek(self, name: Any) -> Entry | None:
            self.looks += 1
            found = super().peek(name)
            if self.looks == 1:
                self.keep(name, entry("theirs"))
            return found

    @Guard("shop", cache(ttl=10, store=Late()), world=world)
    def price(sku: str) -> str:
        return "mine"

    assert price("a") == "theirs"


# The store.


def entry(value: Any) -> Entry:
    return Entry(value, fresh_until=1, stale_until=1, kept_until=1)


def test_memory_is_bounded_and_what_is_asked_for_stays() -> None:
    store = MemoryStore(100)
    for number in range(100):
        store.keep(("s", number), entry(number))
    for number in range(100, 1_000):
        assert store.peek(("s", 7)) is not None, number
        store.keep(("s", number), entry(number))
        assert len(store) == 100
    assert store.peek(("s", 8)) is None

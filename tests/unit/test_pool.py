"""The pool at work, on pretended connections and in pretended time."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.resilience import deadline
from gapless.resilience.deadline_layer import deadline as limit_to
from gapless.resilience.errors import DeadlineExceeded, PoolTimeout, Rejected
from gapless.resilience.events import GuardEvent, LeakFound
from gapless.resilience.guard import guard
from gapless.resilience.pool import Pool
from gapless.resilience.pool_errors import ConnectFailed, PoolClosed
from gapless.resilience.pool_limits import PoolLimits
from gapless.testing.world import FakeWorld

TAKES_S = 0.1


class Server:
    """Pretends a server and its connections, and counts the open ones."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.down = False
        self.sick: set[int] = set()
        self.open: set[int] = set()
        self.most = self.number = 0
        self.dropped = 0

    async def connect(self) -> int:
        await self.world.sleep(TAKES_S)
        if self.down:
            raise ConnectionRefusedError("nobody there")
        self.number += 1
        self.open.add(self.number)
        self.most = max(self.most, len(self.open))
        return self.number

    async def check(self, connection: int) -> bool:
        await self.world.sleep(0.01)
        return connection not in self.sick

    async def close(self, connection: int) -> None:
        await self.world.sleep(0.01)
        self.open.discard(connection)


Make = Callable[..., Pool[int]]


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def server(world: FakeWorld) -> Server:
    return Server(world)


@pytest.fixture
async def make(world: FakeWorld, server: Server) -> AsyncIterator[Make]:
    pools = []

    def make(*, hooks: tuple[Any, ...] = (), more: dict[str, Any] | None = None, **limits: Any) -> Pool[int]:
        numbers = PoolLimits(**{"max_size": 2, "acquire_deadline_s": 5.0} | limits)
        given = {"check": server.check, "close": server.close} | (more or {})
        pools.append(Pool(server.connect, name="db", world=world, limits=numbers, hooks=hooks, **given))
        return pools[-1]

    yield make
    for pool in pools:
        await settled(world, pool.close(drain_s=1.0))
        figures = pool.statistics()
        assert (figures.size, figures.waiting) == (0, 0)
        assert figures.created_total == figures.closed_total
    assert not server.open
    assert world.pending == 0


async def settled(world: FakeWorld, work: Any, seconds: float = 60.0) -> Any:
    """Let time pass until `work` is done."""
    task = asyncio.ensure_future(work)
    await world.settle()
    while not task.done() and seconds > 0:
        await world.advance(0.05)
        seconds -= 0.05
    return await task


async def hold(pool: Pool[int], world: FakeWorld, seconds: float, seen: list[Any], name: Any) -> None:
    async with pool.acquire():
        seen.append(name)
        await world.sleep(seconds)


async def test_lends_the_same_connection_again(world: FakeWorld, make: Make) -> None:
    pool = make()
    for _ in range(3):
        await settled(world, hold(pool, world, 0.5, [], 0))
    figures = pool.statistics()
    assert (figures.created_total, figures.acquired_total, figures.idle, figures.in_use) == (1, 3, 1, 0)


async def test_serves_in_the_order_of_asking_and_nobody_pushes_in(world: FakeWorld, make: Make) -> None:
    pool, seen = make(max_size=1), list[Any]()
    tasks = [asyncio.ensure_future(hold(pool, world, 0.1, seen, name)) for name in range(5)]

    async def greedy() -> None:
        for _ in range(5):
            await hold(pool, world, 0.0, seen, "greedy")

    await settled(world, asyncio.gather(*tasks, greedy()))
    assert seen == [0, 1, 2, 3, 4, *["greedy"] * 5]


async def test_a_wait_ends_at_the_acquire_deadline_and_says_who_has_it(world: FakeWorld, make: Make) -> None:
    pool = make(max_size=1, acquire_deadline_s=0.5)
    first = asyncio.ensure_future(hold(pool, world, 2.0, [], 0))
    await world.advance(0.2)
    with pytest.raises(PoolTimeout, match=r"1 of 1 are out, the oldest for 0\.6 s since .*test_pool\.py:\d+") as caught:
        await settled(world, hold(pool, world, 0, [], 1))
    assert isinstance(caught.value, Rejected)
    assert pool.statistics().timeouts_total == 1
    await settled(world, first)


async def test_a_wait_obeys_the_inherited_deadline(world: FakeWorld, make: Make) -> None:
    pool = make(max_size=1)
    first = asyncio.ensure_future(hold(pool, world, 3.0, [], 0))
    await world.advance(0.2)
    token = deadline.current.set(world.now() + 0.25)
    waiting = asyncio.ensure_future(hold(pool, world, 0, [], 1))
    deadline.current.reset(token)
    await world.advance(0.2)
    assert not waiting.done()
    await world.advance(0.06)
    with pytest.raises(PoolTimeout):
        await waiting
    await settled(world, first)


async def test_nothing_is_lent_after_the_deadline(world: FakeWorld, make: Make) -> None:
    pool = make()
    token = deadline.current.set(world.now())
    with pytest.raises(DeadlineExceeded) as caught:
        await hold(pool, world, 0, [], 1)
    deadline.current.reset(token)
    assert not caught.value.started


async def test_opening_goes_on_for_the_next_when_its_borrower_gives_up(world: FakeWorld, make: Make) -> None:
    pool = make(acquire_deadline_s=TAKES_S / 2)
    with pytest.raises(PoolTimeout):
        await settled(world, hold(pool, world, 0, [], 0))
    await world.advance(TAKES_S)
    assert pool.statistics().idle == 1


async def test_a_broken_connection_is_discarded_and_its_idle_neighbours_are_checked(
    world: FakeWorld, server: Server, make: Make
) -> None:
    pool = make(max_size=3)
    await settled(world, asyncio.gather(*(hold(pool, world, 0.5, [], n) for n in range(3))))
    server.sick = {1, 2, 3}
    with pytest.raises(ConnectionResetError):
        async with pool.acquire():
            raise ConnectionResetError("gone")
    await world.advance(0.1)
    assert not server.open
    assert pool.statistics().discarded_total == 3
    await settled(world, hold(pool, world, 0, [], 0))
    assert server.open == {4}


async def test_an_error_of_the_application_keeps_the_connection(world: FakeWorld, make: Make) -> None:
    pool = make()
    await settled(world, hold(pool, world, 0, [], 0))
    with pytest.raises(KeyError):
        async with pool.acquire():
            raise KeyError("sku")
    assert pool.statistics().idle == 1


async def test_a_cut_conversation_costs_the_connection(world: FakeWorld, make: Make) -> None:
    pool = make()
    task = asyncio.ensure_future(hold(pool, world, 10, [], 0))
    await world.advance(1)
    task.cancel()
    await world.advance(1)
    assert pool.statistics().discarded_total == 1


async def test_one_that_died_idle_is_not_lent(world: FakeWorld, server: Server, make: Make) -> None:
    dead: set[int] = set()
    pool = make(more={"broken": lambda connection, error: connection in dead})
    await settled(world, hold(pool, world, 0, [], 0))
    dead.add(1)
    seen: list[int] = []

    async def use() -> None:
        async with pool.acquire() as connection:
            seen.append(connection)

    await settled(world, use())
    assert seen == [2]


async def test_a_mistake_in_broken_costs_a_connection_and_no_more(world: FakeWorld, make: Make) -> None:
    def wrong(connection: int, error: BaseException | None) -> bool:
        raise AttributeError("no such thing")

    pool = make(more={"broken": wrong})
    for _ in range(3):
        await settled(world, hold(pool, world, 0, [], 0))
    assert pool.statistics().discarded_total == 3


async def test_a_guards_deadline_binds_the_wait(world: FakeWorld, make: Make) -> None:
    pool = make(max_size=1)
    holder = asyncio.ensure_future(hold(pool, world, 10, [], 0))
    await world.advance(0.5)

    @guard("db", limit_to(1.0), world=world)
    async def query() -> None:
        await hold(pool, world, 0, [], 1)

    begun = world.now()
    task = asyncio.ensure_future(query())
    await world.advance(1.05)
    assert isinstance(task.exception(), Rejected)
    assert world.now() - begun < 1.1
    assert pool.statistics().waiting == 0
    await settled(world, holder)


async def test_idle_ones_are_closed_down_to_the_minimum(world: FakeWorld, server: Server, make: Make) -> None:
    pool = make(max_size=3, min_size=1, idle_timeout_s=10)
    async with pool:
        await settled(world, asyncio.gather(*(hold(pool, world, 0.5, [], n) for n in range(3))))
        assert len(server.open) == 3
        await world.advance(13)
        assert len(server.open) == 1
        await settled(world, pool.close())


async def test_health_checks_replace_what_is_below_the_minimum(world: FakeWorld, server: Server, make: Make) -> None:
    pool = make(min_size=1, health_check_every_s=4, idle_timeout_s=math.inf)
    async with pool:
        await world.advance(1)
        assert server.open == {1}
        server.sick = {1}
        await world.advance(6)
        assert server.open == {2}
        await settled(world, pool.close())


async def test_a_check_that_hangs_is_a_failed_one(world: FakeWorld, server: Server, make: Make) -> None:
    async def hang(connection: int) -> None:
        await world.sleep(1e6)

    pool = make(health_check_every_s=4, check_s=1, more={"check": hang})
    await settled(world, hold(pool, world, 0, [], 0))
    await world.advance(7)
    assert pool.statistics().discarded_total == 1


async def test_a_leak_is_told_once_with_its_place(
    world: FakeWorld, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[GuardEvent] = []
    pool = make(leak_after_s=10, hooks=(told.append,))
    task = asyncio.ensure_future(hold(pool, world, 100, [], 0))
    await world.advance(50)
    assert caplog.text.count("not given back") == 1
    assert [type(event) for event in told] == [LeakFound]
    assert "test_pool.py:" in told[0].place  # type: ignore[attr-defined]
    figures = pool.statistics()
    assert figures.leaked_total == 1
    assert figures.metrics()["pool_oldest_checkout_age_seconds"] == pytest.approx(50 - TAKES_S)
    await settled(world, task)


async def test_everybody_is_told_when_the_server_is_down_and_served_when_it_is_back(
    world: FakeWorld, server: Server, make: Make
) -> None:
    pool = make()
    server.down = True
    results = await settled(
        world, asyncio.gather(*(hold(pool, world, 0, [], n) for n in range(7)), return_exceptions=True)
    )
    assert [type(result) for result in results] == [ConnectFailed] * 7
    assert isinstance(results[0].__cause__, ConnectionRefusedError)
    server.down = False
    await settled(world, asyncio.gather(*(hold(pool, world, 0, [], n) for n in range(7))))
    assert pool.statistics().failed_total == 7


async def test_connecting_has_a_limit(world: FakeWorld, make: Make) -> None:
    pool = make(connect_s=TAKES_S / 2)
    with pytest.raises(ConnectFailed, match=r"nothing answered within 0\.05 s"):
        await settled(world, hold(pool, world, 0, [], 0))


async def test_what_came_back_is_cleaned_before_it_is_lent_again(world: FakeWorld, make: Make) -> None:
    cleaned: list[int] = []

    async def clean(connection: int) -> None:
        await world.sleep(0.02)
        cleaned.append(connection)

    pool = make(max_size=1, more={"clean": clean})
    seen: list[int] = []

    async def use() -> None:
        async with pool.acquire() as connection:
            seen.append(len(cleaned))
            assert connection == 1

    await settled(world, asyncio.gather(*(use() for _ in range(3))))
    assert seen == [0, 1, 2]


async def test_vendors_errors_are_translated(world: FakeWorld, make: Make) -> None:
    pool = make(more={"translate": lambda error: ConnectFailed("ours") if isinstance(error, KeyError) else None})
    await settled(world, hold(pool, world, 0, [], 0))
    with pytest.raises(ConnectFailed, match="ours") as caught:
        async with pool.acquire():
            raise KeyError("theirs")
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match="own"):
        async with pool.acquire():
            raise ValueError("own")


async def test_closing_serves_who_waits_and_refuses_newcomers(world: FakeWorld, make: Make) -> None:
    pool, seen = make(max_size=1), list[Any]()
    tasks = [asyncio.ensure_future(hold(pool, world, 0.5, seen, n)) for n in range(3)]
    await world.advance(0.2)
    closing = asyncio.ensure_future(pool.close(drain_s=10))
    await world.advance(0)
    with pytest.raises(PoolClosed):
        await hold(pool, world, 0, [], 0)
    await settled(world, asyncio.gather(closing, *tasks))
    assert seen == [0, 1, 2]


async def test_closing_waits_no_longer_than_told(
    world: FakeWorld, server: Server, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(max_size=1)
    first, second = (asyncio.ensure_future(hold(pool, world, 30, [], n)) for n in range(2))
    await world.advance(0.2)
    await settled(world, pool.close(drain_s=2))
    assert world.now() < 3
    assert not server.open
    assert "with a connection out since" in caplog.text
    with pytest.raises(PoolClosed):
        await second
    await settled(world, first)


async def test_closing_does_not_wait_for_a_connection_that_nobody_wants(world: FakeWorld, make: Make) -> None:
    pool = make(min_size=2)
    async with pool:
        await world.advance(TAKES_S / 2)
    assert pool.statistics().size == 0


async def test_a_waiter_cancelled_before_his_turn_is_passed_over(world: FakeWorld, make: Make) -> None:
    """Cancelled and not yet awake when the connection comes back."""
    pool, seen = make(max_size=1), list[Any]()
    await settled(world, hold(pool, world, 0, [], 0))
    async with pool.acquire():
        first, second = (asyncio.ensure_future(hold(pool, world, 0, seen, n)) for n in range(2))
        await world.settle()
        first.cancel()
    await world.settle()
    assert (seen, first.cancelled(), second.done()) == ([1], True, True)


async def test_a_waiter_cancelled_in_his_turn_passes_it_on(world: FakeWorld, make: Make) -> None:
    """Cancelled after the connection was given to him, and before he saw it."""
    pool, seen = make(max_size=1), list[Any]()
    await settled(world, hold(pool, world, 0, [], 0))
    async with pool.acquire():
        first, second = (asyncio.ensure_future(hold(pool, world, 0, seen, n)) for n in range(2))
        await world.settle()
    first.cancel()
    await world.settle()
    assert (seen, first.cancelled(), second.done()) == ([1], True, True)
    assert pool.statistics().in_use == 0


async def test_who_leaves_the_queue_is_no_longer_counted(world: FakeWorld, make: Make) -> None:
    pool = make(max_size=1)
    await settled(world, hold(pool, world, 0, [], 0))
    async with pool.acquire():
        waiter = asyncio.ensure_future(hold(pool, world, 0, [], 1))
        await world.settle()
        assert pool.statistics().waiting == 1
        waiter.cancel()
        await world.settle()
        assert pool.statistics().waiting == 0


async def test_a_broken_connection_is_replaced_at_once_for_who_waits(world: FakeWorld, make: Make) -> None:
    pool, seen = make(max_size=1), list[Any]()
    await settled(world, hold(pool, world, 0, [], 0))

    async def break_one() -> None:
        async with pool.acquire():
            await world.sleep(0.5)
            raise ConnectionResetError("gone")

    breaking = asyncio.ensure_future(break_one())
    await world.advance(0.4)
    waiter = asyncio.ensure_future(hold(pool, world, 0, seen, "served"))
    await world.advance(0.1 + TAKES_S + 0.02)
    assert isinstance(breaking.exception(), ConnectionResetError)
    assert seen == ["served"]
    await waiter


async def test_the_one_used_last_is_lent_first(world: FakeWorld, make: Make) -> None:
    """So that the others grow old, and the pool shrinks to what is needed."""
    pool = make(max_size=3, idle_timeout_s=10)
    await settled(world, asyncio.gather(*(hold(pool, world, 0.5, [], n) for n in range(3))))
    for _ in range(15):
        await settled(world, hold(pool, world, 0, [], 0))
        await world.advance(1)
    assert pool.statistics().size == 1


@pytest.mark.parametrize("slow", [False, True])
async def test_cancelled_at_any_await_it_leaks_nothing(
    world: FakeWorld, server: Server, make: Make, slow: bool
) -> None:
    """The borrower is cancelled after n passes of the loop, for every n; others compete."""
    for passes in range(25):
        pool = make(max_size=1)
        others = [asyncio.ensure_future(hold(pool, world, 0.0, [], 0)) for _ in range(2)]
        task = asyncio.ensure_future(hold(pool, world, 0.0, [], "cancelled"))
        more = [asyncio.ensure_future(hold(pool, world, 0.0, [], 0)) for _ in range(2)]
        if slow:
            await world.advance(TAKES_S)
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        await settled(world, asyncio.gather(task, *others, *more, return_exceptions=True))
        figures = pool.statistics()
        assert (figures.in_use, figures.waiting) == (0, 0)
        assert not any(each.exception() for each in (*others, *more))
        await world.advance(1)
        assert pool.statistics().size == len(server.open)
        await settled(world, pool.close())


class Storm:
    """Random borrowers who hold, fail, are cancelled or run out of time; a server that comes and goes."""

    def __init__(self, seed: int) -> None:
        self.dice, self.world = random.Random(seed), FakeWorld(seed)
        self.server = server = Server(self.world)
        limits = PoolLimits(max_size=3, acquire_deadline_s=0.4, idle_timeout_s=2, health_check_every_s=1)
        self.pool = Pool(
            server.connect, name="db", world=self.world, limits=limits, check=server.check, close=server.close
        )
        self.lent: set[int] = set()
        self.tasks: list[asyncio.Future[None]] = []

    async def borrow(self, seconds: float, error: type[Exception] | None) -> None:
        async with self.pool.acquire() as connection:
            assert connection not in self.lent, "lent twice"
            self.lent.add(connection)
            try:
                await self.world.sleep(seconds)
                if error:
                    raise error("on purpose")
            finally:
                self.lent.discard(connection)

    def happen(self) -> None:
        error = self.dice.choice([None, None, KeyError, ConnectionResetError])
        self.tasks.append(asyncio.ensure_future(self.borrow(self.dice.choice([0, 0.05, 0.3]), error)))
        if self.dice.random() < 0.3:
            self.dice.choice(self.tasks).cancel()
        if self.dice.random() < 0.1:
            self.server.down = not self.server.down
        if self.dice.random() < 0.1:
            self.server.sick = set(self.server.open)

    async def blow(self) -> None:
        for _ in range(40):
            self.happen()
            wait = self.dice.choice([None, 0, 0.01, 0.1, 1.5])
            await (asyncio.sleep(0) if wait is None else self.world.advance(wait))
            assert self.pool.statistics().size <= 3
        await self.world.advance(30)
        await settled(self.world, self.pool.close())

    def look(self) -> None:
        assert all(task.done() for task in self.tasks), "somebody is stuck"
        for error in [task.exception() for task in self.tasks if not task.cancelled()]:
            assert error is None or isinstance(error, KeyError | ConnectionResetError | PoolTimeout | ConnectFailed)
        assert self.server.most <= 3
        assert not self.server.open
        assert self.world.pending == 0


@given(seed=st.integers(0, 2**32))
def test_no_order_of_events_breaks_it(seed: int) -> None:
    storm = Storm(seed)
    asyncio.run(storm.blow())
    storm.look()

"""The guard itself: wrapping, order, admission, reload, statistics and events."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gapless
from gapless.core.errors import ConfigError
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import DeadlineExceeded, Rejected, Unsent
from gapless.resilience.events import DeadlineExpired, FellBack, GuardEvent, Reloaded
from gapless.resilience.fallback import fallback
from gapless.resilience.guard import Guard, Guards, guard, idempotent
from gapless.resilience.order import ONCE, OUTSIDE, check_order, safe_order
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Kwargs, Layer, Site
from gapless.resilience.retry_layer import retry
from gapless.testing import FakeWorld
from tests.unit.guard_kit import Script, guarded, outcome

KINDS = ("deadline", "fallback", "cache", "retry", "hedge", "breaker", "rate", "limit")


@dataclass(frozen=True, slots=True)
class Door:
    """A policy for tests: counts, refuses when told, and remembers what went through it."""

    kind: ClassVar[str] = "door"
    name: str = ""
    closed: bool = False
    key: str = ""

    def bind(self, binding: Binding) -> DoorLayer:
        return DoorLayer(self)


class DoorLayer(Layer):
    kind = "door"

    def __init__(self, policy: Door) -> None:
        self.policy = policy
        self.state: dict[str, Any] = {"passed": 0, "held": 0, "shut": False}

    def adopt(self, old: Layer) -> None:
        assert isinstance(old, DoorLayer)
        self.state = old.state

    def close(self) -> None:
        self.state["shut"] = True

    def statistics(self) -> dict[str, Any]:
        return dict(self.state)

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        async def passed(args: Args, kwargs: Kwargs) -> Any:
            self.enter({})
            return await call(args, kwargs)

        self._key(site)
        return passed

    def around_sync(self, call: Call, site: Site) -> Call:
        def passed(args: Args, kwargs: Kwargs) -> Any:
            self.enter({})
            return call(args, kwargs)

        self._key(site)
        return passed

    def gate(self, site: Site) -> DoorLayer:
        return self

    def _key(self, site: Site) -> None:
        if self.policy.key:
            site.key(self.policy.key)

    def enter(self, kwargs: Kwargs) -> str:
        if self.policy.closed:
            raise Rejected("closed", policy="door", guard="g")
        self.state["passed"] += 1
        return self.policy.name

    async def acquire(self, kwargs: Kwargs) -> str:
        name = self.enter(kwargs)
        self.state["held"] += 1
        return name

    def acquire_sync(self, kwargs: Kwargs) -> str:
        name = self.enter(kwargs)
        self.state["held"] += 1
        return name

    def release(self, held: str, error: BaseException | None) -> BaseException | None:
        assert held == self.policy.name
        self.state["held"] -= 1
        return None


async def test_a_guarded_function_keeps_its_name_signature_and_kind() -> None:
    shop = guard("shop", Door())

    @shop
    async def charge(user: str, amount: int = 3) -> int:
        """Takes money."""
        return amount

    @shop
    def price(user: str, /, *, cents: int) -> int:
        return cents

    assert inspect.iscoroutinefunction(charge)
    assert not inspect.iscoroutinefunction(price)
    assert (charge.__name__, charge.__doc__) == ("charge", "Takes money.")
    assert str(inspect.signature(charge)) == "(user: 'str', amount: 'int' = 3) -> 'int'"
    assert await charge("u") == 3
    assert price("u", cents=5) == 5
    with pytest.raises(TypeError, match="user"):
        await charge()  # type: ignore[call-arg]


async def test_methods_callable_objects_and_partials_are_guarded_too() -> None:
    from functools import partial

    shop = guard("shop", Door(key="{self.tenant}"))

    class Shop:
        tenant = "t"

        @shop
        async def buy(self, amount: int) -> int:
            return amount

    class Ask:
        async def __call__(self, amount: int) -> int:
            return amount

    async def add(left: int, right: int) -> int:
        return left + right

    plain = guard("plain", Door())
    assert await Shop().buy(2) == 2
    assert await plain(Ask())(3) == 3
    assert await plain(partial(add, 1))(2) == 3


def test_generators_are_refused() -> None:
    def numbers() -> Any:
        yield 1

    async def later() -> Any:
        yield 1

    for each in (numbers, later):
        with pytest.raises(ConfigError, match=r"is a generator(.|\n)*enter"):
            guard("g")(each)


def test_a_key_that_is_no_parameter_is_refused_where_the_function_is_wrapped() -> None:
    shop = guard("shop", Door(key="{user}"))
    with pytest.raises(ConfigError, match=r"key \{user\} is no parameter of .*(.|\n)*amount"):

        @shop
        async def charge(amount: int) -> None: ...


async def test_errors_and_calls_are_counted() -> None:
    world = FakeWorld()
    shop = guarded(world, Door())
    script = Script(world, 1, ValueError("own"), Rejected("inner"), DeadlineExceeded("late"), 5.0)
    ask = shop(script.ask)
    for _ in range(4):
        await outcome(world, ask())
    task = asyncio.ensure_future(ask())
    await world.settle()
    task.cancel()
    await asyncio.wait([task])
    counts = shop.statistics()
    assert {name: counts[name] for name in ("calls", "failed", "rejected", "expired", "cancelled")} == {
        "calls": 5, "failed": 1, "rejected": 1, "expired": 1, "cancelled": 1,
    }  # fmt: skip
    assert counts["policies"]["door"]["passed"] == 5


# Order


@given(st.lists(st.sampled_from(KINDS), max_size=8, unique=True))
def test_an_order_is_accepted_exactly_when_no_pair_is_the_wrong_way_round(kinds: list[str]) -> None:
    wrong = [(inner, outer) for outer, inner in itertools.combinations(kinds, 2) if (inner, outer) in OUTSIDE]
    if not wrong:
        check_order("g", kinds)
        assert safe_order(kinds) == kinds
        return
    with pytest.raises(ConfigError) as raised:
        check_order("g", kinds)
    assert any(OUTSIDE[pair] in str(raised.value) and pair[0] in str(raised.value) for pair in wrong)
    check_order("g", safe_order(kinds))


@pytest.mark.parametrize("kind", ONCE)
def test_what_must_be_there_once_is_refused_twice(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"has {kind} twice"):
        check_order("g", [kind, kind])


def test_an_unsafe_order_names_both_policies_the_reason_and_the_way_out() -> None:
    with pytest.raises(ConfigError) as raised:
        guard("payments", retry(idempotent=True), deadline(1.0))
    text = str(raised.value)
    assert "'payments' has retry outside deadline: pauses between attempts" in text
    assert "deadline, retry" in text


# Admission


async def test_enter_holds_and_gives_back_whatever_happens() -> None:
    shop = guard("shop", Door("a"), Door("b"))
    layers = list(shop.layers().values())
    async with shop.enter(user="u"):
        assert [layer.statistics()["held"] for layer in layers] == [1, 1]
    with pytest.raises(ValueError, match="own"), shop.enter():
        raise ValueError("own")
    assert [layer.statistics()["held"] for layer in layers] == [0, 0]
    assert shop.statistics()["failed"] == 1


async def test_a_refusal_further_in_gives_back_what_was_taken_further_out() -> None:
    shop = guard("shop", Door("a"), Door("b", closed=True))
    for _ in range(3):
        with pytest.raises(Rejected):
            async with shop.enter():
                raise AssertionError("never reached")
        with pytest.raises(Rejected), shop.enter():
            raise AssertionError("never reached")
    assert shop.statistics()["policies"]["door"]["held"] == 0
    assert shop.statistics()["rejected"] == 6


async def test_enter_ends_the_block_with_the_deadline() -> None:
    world = FakeWorld()
    shop = guarded(world, deadline(2.0))

    async def block() -> None:
        async with shop.enter():
            await asyncio.Event().wait()

    assert isinstance(await outcome(world, block()), DeadlineExceeded)
    assert world.now() == 2.0
    assert world.pending == 0


# Reload


async def test_a_reload_swaps_the_policies_of_every_function_and_keeps_the_state() -> None:
    shop = guard("shop", Door())

    @shop
    async def buy() -> int:
        return 1

    @shop
    def price() -> int:
        return 2

    assert (await buy(), price()) == (1, 2)
    shop.replace(Door(closed=True))
    with pytest.raises(Rejected):
        await buy()
    with pytest.raises(Rejected):
        price()
    shop.replace(Door(name="other"), Door())
    assert (await buy(), price()) == (1, 2)
    passed = {name: each["passed"] for name, each in shop.statistics()["policies"].items()}
    assert passed == {"door": 4, "door_2": 2}


async def test_a_reload_that_does_not_fit_changes_nothing() -> None:
    shop = guard("shop", Door())

    @shop
    async def buy(user: str) -> int:
        return 1

    before = shop.policies
    for wrong in ([Door(key="{tenant}")], [retry(), deadline(1.0)], [retry()]):
        with pytest.raises(ConfigError):
            shop.replace(*wrong)
        assert shop.policies == before
        assert await buy("u") == 1


async def test_calls_under_way_end_by_the_policies_that_they_began_with() -> None:
    world = FakeWorld()
    shop = guarded(world, deadline(5.0))
    ask = shop(Script(world, 4.0).ask)
    under_way = asyncio.ensure_future(ask())
    await world.advance(1.0)
    shop.replace(deadline(1.0))
    assert isinstance(await outcome(world, ask()), DeadlineExceeded)
    await world.advance(4.0)
    assert under_way.result() == 4.0
    assert world.pending == 0


def test_dropped_policies_are_closed_and_forgotten_functions_freed() -> None:
    shop = guard("shop", Door(), Door())
    first, second = shop.layers().values()

    def make() -> Any:
        return shop(lambda: 1)

    wrapped = weakref.ref(make())
    gc.collect()
    assert wrapped() is None
    shop.replace(Door())
    assert (first.statistics()["shut"], second.statistics()["shut"]) == (False, True)
    shop.close()
    assert shop.layers()["door"].statistics()["shut"]


def test_guards_are_replaced_together_or_not_at_all() -> None:
    guards = Guards(FakeWorld())
    coded = guards.define("coded", Door())
    assert guards.replace({"a": [Door()], "b": [deadline(1.0)]}) == ("a", "b")
    with pytest.raises(ConfigError):
        guards.replace({"a": [Door("other")], "b": [retry(), deadline(1.0)]})
    assert guards.get("a").policies == (Door(),)
    assert guards.replace({"a": [Door()]}) == ("b",)
    assert guards.get("b").policies == ()
    assert coded.policies == (Door(),)
    assert "a" in guards
    assert {each.name for each in guards} == {"a", "b", "coded"}
    guards.close()


# Events


async def test_events_come_only_while_somebody_listens_and_a_bad_hook_harms_nobody(caplog: Any) -> None:
    world = FakeWorld()
    shop = guarded(world, fallback(7, on=ValueError))
    heard: list[GuardEvent] = []

    def bad(event: GuardEvent) -> None:
        raise RuntimeError("hook")

    ask = shop(Script(world, ValueError("x")).ask)
    assert await ask() == 7
    off, off_bad = shop.subscribe(heard.append), shop.subscribe(bad)
    assert await ask() == 7
    shop.replace(fallback(8, on=ValueError))
    off()
    off_bad()
    assert await ask() == 8
    assert [type(each) for each in heard] == [FellBack, Reloaded]
    assert caplog.text.count("RuntimeError: hook") == 2


async def test_an_expired_deadline_is_told() -> None:
    world = FakeWorld()
    shop = guarded(world, deadline(1.0))
    heard: list[GuardEvent] = []
    shop.subscribe(heard.append)
    await outcome(world, shop(Script(world, 9.0).ask)())
    assert heard == [DeadlineExpired(guard="payments", policy="deadline", limit_s=1.0, started=True)]


# Odds and ends


def test_the_root_has_the_words_of_the_guard() -> None:
    assert len(gapless.__all__) <= 20
    assert gapless.guard is guard
    assert isinstance(gapless.guard("x", gapless.deadline(1.0)), Guard)
    assert issubclass(gapless.Transient, gapless.GaplessError)


def test_refusals_are_safe_to_repeat_and_late_answers_are_not() -> None:
    assert not Rejected.sent
    assert not Unsent.sent
    assert DeadlineExceeded("x").sent
    assert not DeadlineExceeded("x", started=False).sent
    assert issubclass(DeadlineExceeded, TimeoutError)


def test_the_mark_is_kept_through_the_guard() -> None:
    @guard("shop", retry())
    @idempotent
    def read() -> int:
        return 1

    assert read() == 1

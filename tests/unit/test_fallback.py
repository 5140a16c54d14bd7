"""Fallbacks: a value, a function, the last good answer."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.core.errors import ConfigError
from gapless.resilience.errors import Rejected
from gapless.resilience.fallback import fallback, stale
from gapless.testing import FakeWorld
from tests.unit.guard_kit import Script, guarded


async def later(user: str = "u", idempotency_key: str = "") -> str:
    return f"later for {user}"


@pytest.mark.parametrize(
    ("substitute", "answer"),
    [
        ([], []),
        (None, None),
        (lambda: "none", "none"),
        (lambda user: f"for {user}", "for u"),
        (lambda error: str(error), "full"),
        (lambda user, error: f"{user}: {error}", "u: full"),
    ],
)
async def test_it_answers_with_what_it_was_given(substitute: Any, answer: Any) -> None:
    world = FakeWorld()
    shop = guarded(world, fallback(substitute))

    @shop
    async def ask(user: str) -> Any:
        raise Rejected("full")

    @shop
    def ask_sync(user: str) -> Any:
        raise Rejected("full")

    assert await ask("u") == answer
    assert ask_sync("u") == answer
    assert shop.statistics()["policies"]["fallback"]["fell_back"] == 2


async def test_an_async_fallback_is_awaited_and_refused_around_a_sync_function() -> None:
    world = FakeWorld()
    shop, script = guarded(world, fallback(later)), Script(world, Rejected("full"))
    assert await shop(script.ask)("ann") == "later for ann"
    with pytest.raises(ConfigError, match="its fallback is"):
        shop(script.ask_sync)


async def test_only_what_it_is_for_falls_back() -> None:
    world = FakeWorld()
    error = ValueError("own")
    with pytest.raises(ValueError, match="own"):
        await guarded(world, fallback(1))(Script(world, error).ask)()
    assert await guarded(world, fallback(1, on=ValueError))(Script(world, error).ask)() == 1
    assert await guarded(world, fallback(1, on=(OSError, ValueError)))(Script(world, error).ask)() == 1
    asked = guarded(world, fallback(1, on=lambda error: "own" in str(error)))
    assert asked(Script(world, error).ask_sync)() == 1
    with pytest.raises(ValueError, match="other"):
        asked(Script(world, ValueError("other")).ask_sync)()


async def test_a_fallback_that_fails_tells_why_it_was_asked() -> None:
    def broken() -> None:
        raise KeyError("no substitute")

    world, failure = FakeWorld(), Rejected("full")
    shop = guarded(world, fallback(broken))
    with pytest.raises(KeyError) as raised:
        await shop(Script(world, failure).ask)()
    assert raised.value.__cause__ is failure
    assert shop.statistics()["policies"]["fallback"]["failed"] == 1


async def test_stale_gives_the_last_good_answer_while_it_is_young_enough() -> None:
    world = FakeWorld()
    shop = guarded(world, fallback(stale(max_age=10.0, keep=2, key="{user}")))
    down = False

    @shop
    async def ask(user: str) -> str:
        if down:
            raise Rejected("full")
        return f"{user} at {world.now()}"

    for user in ("a", "b", "c"):
        await ask(user)
    down = True
    assert await ask("c") == "c at 0.0"
    with pytest.raises(Rejected):
        await ask("a")  # only two are kept
    world.pause(10.1)
    with pytest.raises(Rejected):
        await ask("c")


def test_stale_knows_answers_by_all_arguments_unless_told() -> None:
    world = FakeWorld()
    down = False

    def ask(user: str, amount: int = 1) -> str:
        if down:
            raise Rejected("full")
        return f"{user} {amount}"

    asking = guarded(world, fallback(stale()))(ask)
    asking("a", amount=2)
    down = True
    assert asking("a", amount=2) == "a 2"
    with pytest.raises(Rejected):
        asking("a", amount=3)

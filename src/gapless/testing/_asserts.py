"""What the conformance suites say when something is not as promised: bare asserts show no values outside of tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

from gapless.core.errors import Conflict, GaplessError
from gapless.core.ports import Update


def same(found: Any, wanted: Any) -> None:
    assert found == wanted, f"found {found!r}, not {wanted!r}"


def above(found: int, bound: int) -> None:
    assert found > bound, f"revision {found} is not above {bound}"


async def raises(kind: type[GaplessError], call: Awaitable[Any]) -> GaplessError:
    try:
        result = await call
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised; the answer was {result!r}")


async def conflict(call: Awaitable[Any], key: str, expected: int, found: int) -> None:
    error = await raises(Conflict, call)
    assert isinstance(error, Conflict)
    same((error.key, error.expected, error.found), (key, expected, found))


async def take(watch: AsyncIterator[tuple[Update, ...]], count: int) -> list[Update]:
    """The next `count` updates, whatever their grouping."""
    updates: list[Update] = []
    while len(updates) < count:
        updates.extend(await anext(watch))
    return updates


async def ended(watch: AsyncIterator[tuple[Update, ...]]) -> bool:
    async for _ in watch:
        return False
    return True

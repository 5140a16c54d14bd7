"""Who is asked before settings change, and told afterwards.

    @settings.check                     asked: refuses by raising, or by returning False
    def affordable(before, after): ...

    @settings.changed                   told
    async def resize(before, after): ...

    @settings.changed                   both: up to its `yield` it is asked, behind it it is told
    async def reconnect(before, after):
        pool = await connect(after.database)
        yield
        swap(pool)

All are asked before anybody is told. A generator whose change does not come about is closed: `finally` undoes.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from gapless.core.ports import World

_log = logging.getLogger("gapless.settings")

ASK_LIMIT_S = 5.0
"""For each callback: requests go on meanwhile, but the next change waits."""

Callback = Callable[[Any, Any], Any]


class Refusal(NamedTuple):
    """Who refused, and why."""

    who: str
    why: str

    def __str__(self) -> str:
        return f"{self.who} refuses: {self.why}"


class Asked:
    """A change that everybody has been asked about. `tell` when it has come about, or else `drop`."""

    def __init__(
        self, world: World, tellers: Sequence[Callback], before: Any, after: Any, mask: Callable[[str], str]
    ) -> None:
        self.refusals: list[Refusal] = []
        self._mask = mask
        self._world = world
        self._tellers = tellers
        self._values = before, after
        self._begun: dict[int, Any] = {}
        """Generators that wait at their `yield`, by the place of their callback."""

    async def ask(self, checks: Sequence[Callback]) -> None:
        """Everybody, also when somebody has refused: all reasons are told at once."""
        for check in checks:
            await self._heard(check, _plain(check, *self._values))
        for place, teller in enumerate(self._tellers):
            if _yields(teller):
                generator = self._begun[place] = teller(*self._values)
                await self._heard(teller, _next(generator))

    async def tell(self) -> list[str]:
        """What went wrong in those who were told: the change stands."""
        failures = []
        for place, teller in enumerate(self._tellers):
            generator = self._begun.pop(place, None)
            act = _next(generator) if generator is not None else _plain(teller, *self._values)
            try:
                await limited(act, ASK_LIMIT_S, self._world)
            except Exception as error:  # noqa: BLE001 - the others are told even so; it is logged and returned
                self._log(teller, "failed when it was told of changed settings", error)
                failures.append(f"{_name(teller)} failed: {self._mask(_reason(error))}")
        return failures

    async def drop(self) -> None:
        """The change does not come about."""
        for place, generator in self._begun.items():
            try:
                closed = generator.aclose() if hasattr(generator, "aclose") else generator.close()
                if closed is not None:
                    await limited(closed, ASK_LIMIT_S, self._world)
            except Exception as error:  # noqa: BLE001 - the others are closed even so
                self._log(self._tellers[place], "failed to undo what it had prepared", error)
        self._begun.clear()

    async def _heard(self, callback: Callback, answer: Awaitable[Any]) -> None:
        try:
            if await limited(answer, ASK_LIMIT_S, self._world) is False:
                self.refusals.append(Refusal(_name(callback), "it returned False"))
        except Exception as error:  # noqa: BLE001 - whatever it raises is its reason
            self.refusals.append(Refusal(_name(callback), self._mask(_reason(error))))

    def _log(self, callback: Callback, what: str, error: Exception) -> None:
        """With its traceback, but without secrets that the error may quote."""
        _log.error("%s %s:\n%s", _name(callback), what, self._mask("".join(traceback.format_exception(error))))


def _yields(callback: Callback) -> bool:
    return inspect.isasyncgenfunction(callback) or inspect.isgeneratorfunction(callback)


async def _plain(callback: Callback, before: Any, after: Any) -> Any:
    found = callback(before, after)
    return await found if inspect.isawaitable(found) else found


async def _next(generator: Any) -> None:
    """On to the `yield`, or to the end."""
    if hasattr(generator, "asend"):
        await anext(generator, None)
    else:
        next(generator, None)


async def limited(act: Awaitable[Any], limit_s: float, world: World) -> Any:
    """Raises TimeoutError, and what the act raises."""
    task = asyncio.ensure_future(act)
    late = False

    def end() -> None:
        nonlocal late
        late = True
        task.cancel()

    cancel = world.after(limit_s, end)
    try:
        return await task
    except asyncio.CancelledError:
        if late and task.cancelled():
            raise TimeoutError(f"it took more than {limit_s:g} s") from None
        task.cancel()
        raise
    finally:
        cancel()


def _name(callback: Callback) -> str:
    return getattr(callback, "__name__", repr(callback))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__

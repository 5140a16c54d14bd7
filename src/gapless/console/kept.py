"""Answers that all pages share for some seconds: who looks again at once asks nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

FRESH_S = 4.0
"""The record of metrics has something new every five seconds."""


class Kept(Generic[T]):
    """An answer, for as long as it is fresh."""

    def __init__(self, ask: Callable[[float], Awaitable[T]], fresh_s: float = FRESH_S) -> None:
        self._ask, self._fresh_s = ask, fresh_s
        self._at = float("-inf")
        self._answer: T

    async def get(self, now_at: float) -> T:
        if not 0 <= now_at - self._at < self._fresh_s:
            self._answer = await self._ask(now_at)
            self._at = now_at
        return self._answer

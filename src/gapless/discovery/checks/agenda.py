"""When what is due: thousands of names, each with at most one moment, and one timer for all of them. Pure."""

from __future__ import annotations

import heapq
import math


class Agenda:
    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._lines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def plan(self, name: str, at: float) -> None:
        """Its one moment from now on."""
        self._at[name] = at
        heapq.heappush(self._lines, (at, name))
        if len(self._lines) > 2 * len(self._at) + 16:
            self._lines = [(at, name) for name, at in self._at.items()]
            heapq.heapify(self._lines)

    def drop(self, name: str) -> None:
        self._at.pop(name, None)

    def due(self) -> float:
        """The first moment; infinite when there is none."""
        while self._lines:
            at, name = self._lines[0]
            if self._at.get(name) == at:
                return at
            heapq.heappop(self._lines)
        return math.inf

    def take(self, now: float) -> list[str]:
        """Those whose moment has come, the earliest first. They have none afterwards."""
        taken = []
        while self.due() <= now:
            taken.append(heapq.heappop(self._lines)[1])
            del self._at[taken[-1]]
        return taken

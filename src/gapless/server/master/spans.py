"""The newest spans of all workers, until whoever collects them has read them."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

MOST = 5_000
MOST_AT_ONCE = 1_000


class Spans:
    """Numbered in order of arrival, from 1 on."""

    def __init__(self) -> None:
        self._spans: deque[Any] = deque(maxlen=MOST)
        self._last = 0

    def add(self, spans: list[Any]) -> None:
        self._spans.extend(spans)
        self._last += len(spans)

    def after(self, number: int) -> dict[str, Any]:
        """Those with higher numbers, `last` being that of the last one that is given, and how many are `lost` because
        they were asked for too late. A reader whose number is of an earlier master begins anew."""
        first = self._last - len(self._spans) + 1
        start = max(number + 1, first) if number <= self._last else first
        given = list(islice(self._spans, start - first, start - first + MOST_AT_ONCE))
        return {"last": start - 1 + len(given), "lost": max(start - number - 1, 0), "spans": given}

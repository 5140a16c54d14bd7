"""Keys in order, for a hundred thousand of them: a list of short sorted lists.

One long list would be moved by half its length for each new key: 30 µs at 100,000 keys, more than all else that a write
costs before the disk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

FULL = 1024
"""A list of so many keys is cut into two: moving half of it costs less than finding it."""


class SortedKeys:
    """Distinct texts. What it costs to add or remove one grows with the square root of their number at most."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        ordered = sorted(keys)
        half = FULL // 2
        self._parts = [ordered[at : at + half] for at in range(0, len(ordered), half)]
        self._firsts = [part[0] for part in self._parts]

    def add(self, key: str) -> None:
        """A key that is not there."""
        if not self._parts:
            self._parts, self._firsts = [[key]], [key]
            return
        at = max(bisect_right(self._firsts, key) - 1, 0)
        part = self._parts[at]
        insort(part, key)
        self._firsts[at] = part[0]
        if len(part) > FULL:
            self._cut(at)

    def remove(self, key: str) -> None:
        """A key that is there."""
        at = bisect_right(self._firsts, key) - 1
        part = self._parts[at]
        del part[bisect_left(part, key)]
        if part:
            self._firsts[at] = part[0]
        else:
            del self._parts[at], self._firsts[at]

    def below(self, prefix: str) -> Iterator[str]:
        """The keys that begin with `prefix`, in order. It must not change meanwhile."""
        first = max(bisect_right(self._firsts, prefix) - 1, 0)
        for at in range(first, len(self._parts)):
            part = self._parts[at]
            for place in range(bisect_left(part, prefix), len(part)):
                if not part[place].startswith(prefix):
                    return
                yield part[place]

    def _cut(self, at: int) -> None:
        part = self._parts[at]
        half = len(part) // 2
        self._parts[at : at + 1] = [part[:half], part[half:]]
        self._firsts.insert(at + 1, part[half])

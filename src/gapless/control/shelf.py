"""Records of one kind in memory, by their keys, in the order of the keys."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import Any


class Shelf:
    """A dictionary whose keys are kept sorted, so that those below a prefix are found without a look at the others: the
    loops ask for them several times a second, and the change log only grows."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})
        self._keys = sorted(self._values)
        self._below: dict[str, tuple[Any, ...]] = {}
        """What was asked for since the last change."""

    def get(self, key: str) -> Any:
        """None when it is not there."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        if key not in self._values:
            insort(self._keys, key)
        self._values[key] = value
        self._below.clear()

    def remove(self, key: str) -> None:
        """It need not be there."""
        if self._values.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
            self._below.clear()

    def below(self, prefix: str) -> tuple[Any, ...]:
        """The values whose keys begin with `prefix`, which is not empty, in the order of the keys."""
        found = self._below.get(prefix)
        if found is None:
            first = bisect_left(self._keys, prefix)
            end = bisect_left(self._keys, _after(prefix), first)
            found = self._below[prefix] = tuple(self._values[key] for key in self._keys[first:end])
        return found

    def newest(self, prefix: str = "") -> str:
        """The last key that begins with `prefix`; empty when there is none."""
        end = bisect_left(self._keys, _after(prefix)) if prefix else len(self._keys)
        found = self._keys[end - 1] if end else ""
        return found if found.startswith(prefix) else ""

    def __reversed__(self) -> Iterator[Any]:
        """All values, the last key's first."""
        return (self._values[key] for key in reversed(self._keys))


def _after(prefix: str) -> str:
    """The least text that is greater than all that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)

"""Where answers are kept: the port, and the store of one process."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gapless.core.ports import World


DEFAULT_ENTRIES = 10_000


class Entry:
    """An answer and how long it is good for, by the clock of its store (`World.now` in one process, `World.time` when
    several share it): fresh, then stale (given at once, and refreshed), then kept (given only when the call fails)."""

    __slots__ = ("fresh_until", "kept_until", "missing", "stale_until", "used", "value")

    def __init__(
        self, value: Any, *, fresh_until: float, stale_until: float, kept_until: float, missing: bool = False
    ) -> None:
        self.value = value
        self.fresh_until, self.stale_until, self.kept_until = fresh_until, stale_until, kept_until
        self.missing = missing
        """There is nothing of that key: `value` is None, or the exception that said so."""
        self.used = False

    def answer(self) -> Any:
        if isinstance(self.value, Exception) and self.missing:
            raise self.value.with_traceback(None)
        return self.value

    def until(self) -> float:
        return max(self.fresh_until, self.stale_until, self.kept_until)


class CacheStore(Protocol):
    """Never raises: a store that cannot answer has nothing, and counts that in `failures`."""

    shared: bool
    """By several processes: then times are of `World.time`."""
    failures: int

    async def get(self, name: tuple[str, Hashable], world: World) -> Entry | None: ...
    async def set(self, name: tuple[str, Hashable], entry: Entry, ttl_s: float, world: World) -> None: ...
    async def delete(self, name: tuple[str, Hashable], world: World) -> None: ...


class MemoryStore:
    """The last answers of this process, at most `max_entries`.

    Which one must go is decided by a second chance: the oldest that was not asked for since it was last considered
    (CLOCK; Corbató 1968). So a hit moves nothing, and needs no lock.
    """

    shared = False
    failures = 0

    def __init__(self, max_entries: int = DEFAULT_ENTRIES) -> None:
        self.max_entries = max_entries
        self._entries: dict[tuple[str, Hashable], Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, name: tuple[str, Hashable]) -> Entry | None:
        entry = self._entries.get(name)
        if entry is not None:
            entry.used = True
        return entry

    def keep(self, name: tuple[str, Hashable], entry: Entry) -> None:
        entries = self._entries
        entries.pop(name, None)
        entries[name] = entry
        while len(entries) > self.max_entries:
            oldest = next(iter(entries), None)
            if oldest is None:
                return
            given = entries.pop(oldest, None)
            if given is not None and given.used and oldest != name:
                given.used = False
                entries[oldest] = given

    def drop(self, name: tuple[str, Hashable]) -> None:
        self._entries.pop(name, None)

    async def get(self, name: tuple[str, Hashable], world: World) -> Entry | None:
        return self.peek(name)

    async def set(self, name: tuple[str, Hashable], entry: Entry, ttl_s: float, world: World) -> None:
        self.keep(name, entry)

    async def delete(self, name: tuple[str, Hashable], world: World) -> None:
        self.drop(name)

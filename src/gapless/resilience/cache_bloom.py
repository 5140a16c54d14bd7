"""Which keys there are at all, in a few bits each: keys that nobody has ever made are refused without a call.

    known = Known(every_sku, capacity=1_000_000)
    stock = guard("stock", cache(ttl=60, key="{sku}", known=known))
    known.add(sku)      # wherever one is made

A Bloom filter (Bloom 1970) says "no" only when it is sure, and "yes" wrongly for at most `error_rate` of the unknown
keys. Keys are told apart by their `repr`: 1 is not "1". It never forgets, so it is rebuilt from `load` every now and
then. Between two rebuilds it only knows what was added in this process: with several, make `every` shorter than anybody
may be refused a key that another one made, or feed the keys to all of them.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any

from gapless.core.errors import ConfigError
from gapless.resilience.errors import Rejected

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.cache")

CHUNK = 1_000
"""Keys that are added before others may run: about two milliseconds."""
RETRY_S = 5.0
"""After a rebuild that failed."""

Keys = Iterable[Hashable] | AsyncIterable[Hashable]
Load = Callable[[], Keys | Awaitable[Keys]]


class UnknownKey(Rejected, LookupError):
    """Nothing of that key has ever been made."""


class Bloom:
    """Bits. `capacity` keys fill them so far that `error_rate` of the unknown keys are taken for known ones."""

    __slots__ = ("_bits", "_hash", "_hashes", "_size", "capacity", "count")

    def __init__(self, capacity: int, error_rate: float) -> None:
        from xxhash import xxh3_128_intdigest

        self._hash = xxh3_128_intdigest
        self.capacity = capacity
        self.count = 0
        self._size = max(math.ceil(-capacity * math.log(error_rate) / math.log(2) ** 2), 8)
        self._hashes = max(round(self._size / capacity * math.log(2)), 1)
        self._bits = bytearray(self._size // 8 + 1)

    def places(self, key: Hashable) -> list[int]:
        """By two hashes for all (Kirsch, Mitzenmacher 2006)."""
        digest = self._hash(repr(key).encode())
        first, step, size = digest & 0xFFFFFFFFFFFFFFFF, (digest >> 64) | 1, self._size
        return [(first + index * step) % size for index in range(self._hashes)]

    def add(self, key: Hashable) -> None:
        for place in self.places(key):
            self._bits[place >> 3] |= 1 << (place & 7)
        self.count += 1

    def __contains__(self, key: Hashable) -> bool:
        bits = self._bits
        return all(bits[place >> 3] >> (place & 7) & 1 for place in self.places(key))


class Known:
    """The keys that there are. Until they have been loaded for the first time, every key may be one."""

    def __init__(
        self, load: Load | None = None, *, capacity: int = 100_000, error_rate: float = 0.01, every: float = 300.0
    ) -> None:
        if capacity < 1 or not 0 < error_rate < 1:
            raise ConfigError(
                f"Known(capacity={capacity}, error_rate={error_rate}) cannot be built",
                "Give a capacity of at least 1 and an error_rate between 0 and 1, such as 0.01.",
            )
        self._load, self._every_s, self._error_rate = load, every, error_rate
        self._capacity = capacity
        self._filter: Bloom | None = None
        self._next: Bloom | None = None
        self._due_at = -math.inf
        self.rebuilt = self.failed = 0

    def __contains__(self, key: Hashable) -> bool:
        return self._filter is None or key in self._filter

    def __len__(self) -> int:
        return self._filter.count if self._filter else 0

    def add(self, key: Hashable) -> None:
        """A key has been made. Also one that is made while the filter is being rebuilt is known afterwards."""
        for each in (self._filter, self._next):
            if each is not None:
                each.add(key)

    def fill(self, keys: Iterable[Hashable]) -> None:
        """Exactly these, at once."""
        made = Bloom(self._capacity, self._error_rate)
        for key in keys:
            made.add(key)
        self._filter = made

    def due(self, now: float) -> bool:
        return self._load is not None and self._next is None and now >= self._due_at

    async def rebuild(self, world: World) -> None:
        """Load all keys; one rebuild at a time. What fails is counted and logged, and the old filter stays."""
        self._due_at = world.now() + self._every_s
        self._next = Bloom(self._capacity, self._error_rate)
        try:
            await self._fill(self._next, world)
        except Exception:  # noqa: BLE001 whatever the loader raises, the old filter goes on
            self.failed += 1
            self._due_at = world.now() + min(RETRY_S, self._every_s)
            _log.exception("the known keys could not be loaded; trying again in %.3g s", min(RETRY_S, self._every_s))
        else:
            self._filter, self.rebuilt = self._next, self.rebuilt + 1
            self._grow()
        finally:
            self._next = None

    def _grow(self) -> None:
        """More keys than expected: more of the unknown ones pass than promised. Twice the room, and again at once."""
        if self._filter is not None and self._filter.count > self._capacity:
            self._capacity = 2 * self._filter.count
            self._due_at = -math.inf

    async def _fill(self, made: Bloom, world: World) -> None:
        assert self._load is not None
        keys: Any = self._load()
        if inspect.isawaitable(keys):
            keys = await keys
        if isinstance(keys, AsyncIterable):
            async for key in keys:
                made.add(key)
                if made.count % CHUNK == 0:
                    await world.sleep(0)
            return
        for key in keys:
            made.add(key)
            if made.count % CHUNK == 0:
                await world.sleep(0)

"""A number for each of a million keys, in 16 bytes of memory per slot.

Extendible hashing (Fagin et al. 1979): a directory of pages, each an open-addressed table of 512 slots in two arrays. A
full page is split by one more bit of the hash, so that no call ever pays for more than one page. Keys are known by
their 64-bit hash alone: of a million keys two share a number with probability 3·10⁻⁸.

Keys that nobody uses vanish by generations: after `rotate` new entries go into a fresh table, whoever is asked for
moves over, and at the next `rotate` the rest is dropped. Nothing is ever scanned for expiry, by nobody.

A page is `(hashes, values, depth)`. Readers may look into pages without a lock (`rate_local` does), as long as no call
and no jump backwards lies between the look and the write: CPython switches threads nowhere else. So whatever moves an
entry first makes it unfindable in its old place.
"""

from __future__ import annotations

from array import array
from math import ceil, log2

SLOTS = 512
"""A split costs some 100 µs and comes once in about 200 new keys: seldom enough to be beyond the 99th percentile."""
SLOT_MASK = SLOTS - 1
SLOT_SHIFT = 40
"""Slots are chosen by bits that the directory does not use before it has 2⁴⁰ pages."""
FULL = 332
"""Entries in a page that is split: two thirds, beyond which linear probing gets long."""
USUAL = 240
"""Entries in a page on average, between two splits."""
GONE = 1
"""Stands for the hash of an entry that has moved to the next generation; it keeps the probe chain whole."""

Page = tuple["array[int]", "array[float]", int]

_EMPTY = bytes(8 * SLOTS)
_EMPTY_COUNTED = bytes(8 * (SLOTS + 1))
"""One more: the number of entries."""
_NO_HASHES = array("q", _EMPTY_COUNTED)
_NO_VALUES = array("d", _EMPTY)


def hash_of(key: object) -> int:
    """Mixed, since the hash of an int is the int. Strings are salted for each process (PEP 456)."""
    return hash((key,))


class Table:
    """One generation. `directory[hash & mask]` is the page of a hash."""

    __slots__ = ("count", "directory", "mask")

    def __init__(self, expected: int = 0) -> None:
        depth = max(ceil(log2(expected / USUAL)), 0) if expected else 0
        self.directory: list[Page] = [(_NO_HASHES, _NO_VALUES, depth)] * (1 << depth)
        self.mask = (1 << depth) - 1
        self.count = 0

    def get(self, key_hash: int) -> float:
        """0.0 when it is not there."""
        hashes, values, _ = self.directory[key_hash & self.mask]
        slot = key_hash >> SLOT_SHIFT & SLOT_MASK
        while (found := hashes[slot]) != key_hash:  # `_find` without a call: every new key comes by here
            if not found:
                return 0.0
            slot = slot + 1 & SLOT_MASK
        return values[slot]

    def put(self, key_hash: int, value: float) -> None:
        hashes, values, _ = self.directory[key_hash & self.mask]
        slot = _find(hashes, key_hash)
        if hashes[slot]:
            values[slot] = value
        elif hashes[SLOTS] < FULL and hashes is not _NO_HASHES:
            values[slot] = value
            hashes[slot] = key_hash
            hashes[SLOTS] += 1
            self.count += 1
        else:
            self._insert(key_hash, value)

    def take(self, key_hash: int) -> float:
        """`get`, and afterwards it is not there any more."""
        hashes, values, _ = self.directory[key_hash & self.mask]
        slot = _find(hashes, key_hash)
        if not hashes[slot]:
            return 0.0
        hashes[slot] = GONE
        return values[slot]

    def _insert(self, key_hash: int, value: float) -> None:
        page = self.directory[key_hash & self.mask]
        while page[0][SLOTS] >= FULL:
            self._split(page, key_hash)
            page = self.directory[key_hash & self.mask]
        if page[0] is _NO_HASHES:
            page = _blank(page[2])
            self._enter(page, key_hash)
        _add(page, key_hash, value)
        self.count += 1

    def _split(self, old: Page, key_hash: int) -> None:
        depth = old[2]
        if 1 << depth > self.mask:
            self.directory, self.mask = self.directory * 2, self.mask * 2 + 1
        bit = 1 << depth
        halves = _blank(depth + 1), _blank(depth + 1)
        hashes = old[0][:SLOTS]
        old[0][:] = _NO_HASHES
        for each, value in zip(hashes, old[1], strict=True):
            if each and each != GONE:
                _add(halves[bool(each & bit)], each, value)
        self._enter(halves[0], key_hash & ~bit)
        self._enter(halves[1], key_hash | bit)

    def _enter(self, page: Page, key_hash: int) -> None:
        """Let every place of the directory that ends in the page's bits of the hash lead to the page."""
        step = 1 << page[2]
        first = key_hash & (step - 1)
        self.directory[first::step] = [page] * (len(self.directory) // step)


class Generations:
    """Two tables: what was used since the last rotation, and what was used before."""

    __slots__ = ("_dying", "current", "previous")

    def __init__(self) -> None:
        self.current, self.previous = Table(), Table()
        self._dying: list[Page] = []

    def recall(self, key_hash: int) -> float:
        """The number of a key, moved to the current generation when it was in the one before; 0.0 if unknown."""
        value = self.current.get(key_hash)
        if not value and (value := self.leave(key_hash)):
            self.current.put(key_hash, value)
        return value

    def leave(self, key_hash: int) -> float:
        """The number of a key that the generation before has, and afterwards has no more; 0.0 if unknown."""
        if self._dying:  # tens of thousands of pages freed at once would stop everybody for milliseconds
            del self._dying[-4:]
        return self.previous.take(key_hash) if self.previous.count else 0.0

    def peek(self, key_hash: int) -> float:
        """As `recall`, and nothing moves."""
        return self.current.get(key_hash) or self.previous.get(key_hash)

    def rotate(self) -> None:
        self._dying = self.previous.directory
        self.previous, self.current = self.current, Table(self.current.count)

    def __len__(self) -> int:
        return self.current.count + self.previous.count


def _find(hashes: array[int], key_hash: int) -> int:
    """The slot of a hash, or the empty one where it would go."""
    slot = key_hash >> SLOT_SHIFT & SLOT_MASK
    while hashes[slot] != key_hash and hashes[slot]:
        slot = slot + 1 & SLOT_MASK
    return slot


def _blank(depth: int) -> Page:
    return array("q", _EMPTY_COUNTED), array("d", _EMPTY), depth


def _add(page: Page, key_hash: int, value: float) -> None:
    hashes, values, _ = page
    slot = _find(hashes, key_hash)
    values[slot] = value
    hashes[slot] = key_hash
    hashes[SLOTS] += 1

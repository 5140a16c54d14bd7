"""Answers that several processes share (or a disk keeps), through cashews.

    cache(ttl=60, key="{sku}", store=CashewsStore("redis://localhost", secret="…"))

cashews keeps, encodes and connects. What protects is ours, since in cashews (7.6):

- one cancelled caller cancels the call for all that wait for it (`protected=True`);
- a refresh in the background that fails is lost ("exception was never retrieved"), `soft` refreshes in the foreground;
- its keys join values by ":", so that ("x:y", "z") and ("x", "y:z") share an answer;
- with `suppress=True`, the default, an outage looks like a cold cache and nothing counts it; without it, each command
  on a server that hangs takes a second;
- its Bloom filter is filled by hand, never rebuilt, and costs 15 µs a look.

Values are pickled: whoever can write to the Redis can run code here, unless `secret` signs them. Needs the extra
`cache`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable
from typing import Any

from gapless.core.ports import World
from gapless.resilience import deadline
from gapless.resilience.cache_store import Entry, MemoryStore

_log = logging.getLogger("gapless.cache")

FORMAT = 1
"""Changed when what is kept changes: releases that share a Redis during a roll-out must not misread each other."""
LIMIT_S = 0.25
"""For one command: a cache that is slower than that is slower than most calls."""
AWAY_S = 1.0
"""After a failure it is not asked for so long, so that an outage costs one wait a second and not one a call."""


class CashewsStore:
    """`cache` is a URL (`redis://…`, `mem://`, `disk://`), with `options` for `cashews.Cache.setup`, or a Cache that is
    set up. While it is away, this process goes on with the last `keep` answers that it has seen."""

    shared = True

    def __init__(
        self, cache: Any, *, limit: float = LIMIT_S, away: float = AWAY_S, keep: int = 1_000, **options: Any
    ) -> None:
        self._given, self._options = cache, options
        self._limit_s, self._away_s = limit, away
        self._cache: Any = None
        self._seen = MemoryStore(keep)
        self._away_until = 0.0
        self.failures = 0

    async def get(self, name: tuple[str, Hashable], world: World) -> Entry | None:
        if world.now() < self._away_until:
            return self._seen.peek(name)
        try:
            raw = await self._asked(world, "get", _text(name), default=None)
        except _Away:
            return self._seen.peek(name)
        entry = _decoded(raw)
        if entry is None:
            self._seen.drop(name)
        else:
            self._seen.keep(name, entry)
        return entry

    async def set(self, name: tuple[str, Hashable], entry: Entry, ttl_s: float, world: World) -> None:
        self._seen.keep(name, entry)
        await self._told(world, "set", _text(name), _encoded(entry), expire=ttl_s)

    async def delete(self, name: tuple[str, Hashable], world: World) -> None:
        self._seen.drop(name)
        await self._told(world, "delete", _text(name))

    async def close(self) -> None:
        if self._cache is None:
            return
        with warnings.catch_warnings():
            # cashews 7.6 calls redis-py's close by its old name: as an error, that would leave the connections open.
            warnings.simplefilter("ignore", DeprecationWarning)
            await self._cache.close()

    async def _told(self, world: World, command: str, *args: Any, **options: Any) -> None:
        if world.now() < self._away_until:
            return
        try:
            await self._asked(world, command, *args, **options)
        except _Away:
            return  # counted

    async def _asked(self, world: World, command: str, *args: Any, **options: Any) -> Any:
        limit_s = min(self._limit_s, max(deadline.remaining(world.now()), 0.0))
        cache = self._opened()
        try:
            async with deadline.within(world, limit_s):
                return await getattr(cache, command)(*args, **options)
        except Exception as error:
            # Not only what cashews says of the server: a value that cannot be pickled must not fail the call either.
            self.failures += 1
            away = _of_server(error) and not deadline.cut(world.now())
            if away:
                self._away_until = world.now() + self._away_s
            if away or self.failures & (self.failures - 1) == 0:  # what fails at every call is said ever more rarely
                _log.warning("the shared cache failed to %s: %r", command, error)
            raise _Away from error

    def _opened(self) -> Any:
        if self._cache is None:
            self._cache = _set_up(self._given, self._options) if isinstance(self._given, str) else self._given
        return self._cache


class _Away(Exception):
    """The store cannot answer."""


def _set_up(url: str, options: dict[str, Any]) -> Any:
    try:
        from cashews import Cache
    except ImportError as error:
        raise ImportError("a shared cache needs cashews: pip install 'gapless[cache]'") from error
    cache = Cache()
    if url.startswith("redis"):
        options = {"suppress": False} | options
    cache.setup(url, **options)
    return cache


def _of_server(error: Exception) -> bool:
    from cashews.exceptions import CacheError

    return isinstance(error, CacheError | OSError | TimeoutError)


def _text(name: tuple[str, Hashable]) -> str:
    return f"gapless:{name[0]}:{name[1]!r}"


def _encoded(entry: Entry) -> tuple[Any, ...]:
    return (FORMAT, entry.value, entry.fresh_until, entry.stale_until, entry.kept_until, entry.missing)


def _decoded(raw: Any) -> Entry | None:
    if not isinstance(raw, tuple) or len(raw) != 6 or raw[0] != FORMAT:
        return None
    _, value, fresh, stale, kept, missing = raw
    return Entry(value, fresh_until=fresh, stale_until=stale, kept_until=kept, missing=missing)

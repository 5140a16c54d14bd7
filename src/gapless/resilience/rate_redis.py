"""Buckets on Redis: two scripts, one round trip each, by the clock of Redis.

A bucket is one string, the moment (µs since 2025) at which it will be full again, and expires then. `floor` is the
moment at which processes came back after they had lost Redis: until then they had used their parts locally, so that a
bucket counts as empty (but for one call) at that moment, or Redis, which knows of nothing or has forgotten all, would
let a burst through.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol

from gapless.core.errors import ConfigError, GaplessError
from gapless.resilience.rate_quota import Quota

MEMBER_TTL_S = 10.0
"""A process that has asked for nothing in this time does not share."""

_CLOCK = """
local t = redis.call('TIME')
local now = (tonumber(t[1]) - 1735689600) * 1000000 + tonumber(t[2])
local function full_at(key, interval, tolerance, floor)
  local at = math.max(tonumber(redis.call('GET', key) or '0'), now)
  if floor then at = math.max(at, floor + tolerance - interval) end
  return at
end
local function keep(key, at)
  if at > now then redis.call('SET', key, string.format('%.3f', at), 'PX', math.ceil((at - now) / 1000)) end
end
"""

_TAKE = """
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = full_at(KEYS[2], interval, tolerance, tonumber(redis.call('GET', KEYS[1]) or '')) + interval
local excess = at - now - tolerance
if excess > 0.5 then return math.ceil(excess) end
keep(KEYS[2], at)
return 0
"""

_LEND = """
local floor = tonumber(redis.call('GET', KEYS[1]) or '')
if ARGV[3] == '2' or (ARGV[3] == '1' and redis.call('EXISTS', KEYS[2]) == 0) then
  floor = now
  redis.call('SET', KEYS[1], string.format('%.0f', now), 'PX', ARGV[4])
end
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[2]) * 1000)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local reply = {redis.call('ZCARD', KEYS[2])}
for i = 3, #KEYS do
  local a = 5 + (i - 3) * 4
  local interval, tolerance = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  local at = full_at(KEYS[i], interval, tolerance, floor)
  at = math.max(at + tonumber(ARGV[a + 3]) * interval, now)
  local free = math.floor((now + tolerance - at) / interval + 0.000001)
  local granted = math.max(math.min(tonumber(ARGV[a + 2]), free), 0)
  at = at + granted * interval
  keep(KEYS[i], at)
  reply[#reply + 1] = granted
  reply[#reply + 1] = math.max(math.ceil(at + interval - now - tolerance), 0)
end
return reply
"""


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


TAKE = Script(_CLOCK + _TAKE)
"""KEYS floor, bucket; ARGV interval µs, tolerance µs. Returns 0, or the µs after which a call will be admitted."""
LEND = Script(_CLOCK + _LEND)
"""KEYS floor, members, buckets …; ARGV this process, ms that it counts, how it comes (`coming`), ms of the floor, then
for each bucket: interval µs, tolerance µs, calls wanted, calls owed (already admitted; below 0: given back).
Returns the number of processes, then for each bucket: calls granted, µs until there will be another."""


BRIEF_S = 0.5
"""An absence that may be this process's own (its event loop was busy): no reason to empty everybody's buckets, unless
Redis has forgotten all."""


def coming(away_since: float | None, now: float) -> str:
    """ "0": was never away; "1": for a moment (sets the floor if Redis has forgotten all); "2": sets the floor."""
    if away_since is None:
        return "0"
    return "2" if now - away_since > BRIEF_S else "1"


class Away(GaplessError):
    """Redis did not decide: it is unreachable, too slow, or refuses."""


class Scripts(Protocol):
    """What is needed of a Redis. Raises Away."""

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any: ...
    async def close(self) -> None: ...


class BlockingScripts(Protocol):
    """The same for threads."""

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any: ...
    def close(self) -> None: ...


class AsyncRedis:
    """`Scripts` on `redis.asyncio.Redis`. `own`: made here, and so closed here."""

    def __init__(self, client: Any, errors: tuple[type[Exception], ...], own: bool) -> None:
        self._client, self._errors, self._own = client, errors, own

    async def close(self) -> None:
        if self._own:
            await self._client.aclose()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            try:
                return await self._client.evalsha(script.sha, len(keys), *keys, *args)
            except self._errors as error:
                _must_be_unknown(error)
                return await self._client.eval(script.text, len(keys), *keys, *args)
        except self._errors as error:
            raise Away(f"Redis did not decide: {error}") from error


class SyncRedis:
    """`BlockingScripts` on `redis.Redis`."""

    def __init__(self, client: Any, errors: tuple[type[Exception], ...], own: bool) -> None:
        self._client, self._errors, self._own = client, errors, own

    def close(self) -> None:
        if self._own:
            self._client.close()

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            try:
                return self._client.evalsha(script.sha, len(keys), *keys, *args)
            except self._errors as error:
                _must_be_unknown(error)
                return self._client.eval(script.text, len(keys), *keys, *args)
        except self._errors as error:
            raise Away(f"Redis did not decide: {error}") from error


def _must_be_unknown(error: Exception) -> None:
    """Raises again what is not Redis' "I do not know this script" (after a restart or SCRIPT FLUSH)."""
    if type(error).__name__ != "NoScriptError":
        raise error


def is_async(client: Any) -> bool:
    return hasattr(type(client), "__aenter__")


def async_scripts(client: Any, where: str) -> Scripts:
    """Of an asyncio client or a URL. Raises ConfigError."""
    if own := isinstance(client, str):
        _check_installed()
        import redis.asyncio
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        client = redis.asyncio.Redis.from_url(client, retry=Retry(NoBackoff(), 0))
    elif not is_async(client):
        raise ConfigError(f"{where} is async and {client!r} blocks", "Share a redis.asyncio.Redis, or a URL.")
    return AsyncRedis(client, _errors(), own)


def blocking_scripts(client: Any, where: str, timeout_s: float) -> BlockingScripts:
    """Of a blocking client or a URL. Raises ConfigError."""
    if own := isinstance(client, str):
        _check_installed()
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        times = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        client = redis.Redis.from_url(client, retry=Retry(NoBackoff(), 0), **times)
    elif is_async(client):
        raise ConfigError(f"{where} is not async and {client!r} is", "Share a redis.Redis, or a URL.")
    return SyncRedis(client, _errors(), own)


def _check_installed() -> None:
    """Raises ConfigError."""
    if find_spec("redis") is None:
        raise ConfigError("a rate is shared on Redis, and redis-py is not here", "pip install 'gapless[redis]'")


def _errors() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return RedisError, OSError


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one rate. They carry one hash tag, so that a cluster keeps them together."""

    prefix: str
    guard: str
    rate: str

    @property
    def base(self) -> str:
        return f"{self.prefix}:{{{self.guard}}}:{self.rate}"

    @property
    def floor(self) -> str:
        return f"{self.base}:floor"

    @property
    def members(self) -> str:
        return f"{self.base}:processes"

    def bucket(self, key: Hashable) -> str:
        return f"{self.base}:key:{key}"


def interval_us(quota: Quota) -> float:
    return quota.interval_s * 1e6


def tolerance_us(quota: Quota) -> float:
    return quota.tolerance_s * 1e6


def greeting(process: str, away_since: float | None, now: float, longest_s: float) -> list[Any]:
    """The first arguments of LEND: who comes, and how."""
    return [process, int(MEMBER_TTL_S * 1000), coming(away_since, now), math.ceil(longest_s * 1000) + 1]

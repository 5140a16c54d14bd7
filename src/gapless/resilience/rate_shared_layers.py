"""The layers of a rate that processes share on Redis."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

from gapless.resilience import deadline
from gapless.resilience.events import SharedStateLost
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Gate, Kwargs, Layer, Site, Statistics
from gapless.resilience.rate import Rate
from gapless.resilience.rate_layers import InstantLayer, PerKey, RateGate, RateLayer, buckets_of
from gapless.resilience.rate_leases import ANSWER_S, PROBE_S, Leases
from gapless.resilience.rate_quota import Quota
from gapless.resilience.rate_redis import (
    LEND,
    MEMBER_TTL_S,
    TAKE,
    Away,
    BlockingScripts,
    Names,
    Scripts,
    async_scripts,
    blocking_scripts,
    greeting,
    interval_us,
    is_async,
    tolerance_us,
)
from gapless.resilience.rate_refill import Background, Refill, TaskRefill, ThreadRefill
from gapless.resilience.rate_shared import Shared

MOST_LEASES = 100_000
"""Keys with a lease (about 400 bytes each) when `hot` does not say."""


def layer_of(policy: Rate, binding: Binding) -> Layer:
    assert policy.shared is not None
    layer = LeasedLayer if policy.shared.leased else ExactLayer
    return layer(policy, policy.shared, binding)


class SharedLayer(RateLayer):
    """What both kinds have in common."""

    def __init__(self, policy: Rate, shared: Shared, binding: Binding) -> None:
        super().__init__(policy, binding)
        self.shared = shared
        template = policy.key if isinstance(policy.key, str) else policy.key.__qualname__
        self.names = Names(shared.prefix, binding.guard, f"{template}/{policy.quota.per_s:g}s")
        self.quotas = dict(policy.overrides)

    def quota_of(self, key: Hashable) -> Quota:
        return self.quotas.get(key, self.policy.quota)

    @property
    def longest_s(self) -> float:
        """Until the fullest bucket is empty again."""
        return max(each.tolerance_s for each in (self.policy.quota, *self.quotas.values()))

    def alone(self, now: float, processes: int) -> Callable[[Hashable, float], float]:
        """Local buckets for a time without Redis: this process's part, beginning with one call each."""

        def part(policy: Rate, quota: Quota) -> Any:
            mine = quota.share(processes)
            return buckets_of(policy, mine, now + mine.tolerance_s - mine.interval_s if mine.count else 0.0)

        by_quota = {each: part(self.policy.plain(), each) for each in self.quotas.values()}
        own = {key: by_quota[each] for key, each in self.quotas.items()}
        buckets = PerKey(part(self.policy, self.policy.quota), own)
        return lambda key, at: buckets.of(key).acquire(key, at)

    def tell(self, lost: bool, detail: str) -> None:
        binding = self.binding
        if binding.hooks:
            binding.emit(SharedStateLost(guard=binding.guard, policy="rate", lost=lost, detail=detail))


class LeasedLayer(SharedLayer, InstantLayer):
    """Decided locally, refilled in the background: by a task beside an asyncio client, by a thread otherwise."""

    def __init__(self, policy: Rate, shared: Shared, binding: Binding) -> None:
        super().__init__(policy, shared, binding)
        self.leases = Leases(
            names=self.names,
            process=binding.world.token(),
            quota_of=self.quota_of,
            lease_s=shared.lease_s,
            processes=shared.processes,
            longest_s=self.longest_s,
            most_keys=policy.hot.keys if policy.hot else MOST_LEASES,
            alone=self.alone,
            tell=self.tell,
        )
        self.refill: Refill | None = None

    def adopt(self, old: Layer) -> None:
        super().adopt(old)
        if isinstance(old, LeasedLayer) and (old.shared, old.names) == (self.shared, self.names):
            old.leases.retune(self.quota_of, self.longest_s, self.alone, self.binding.now())
            self.leases, self.refill = old.leases, old.refill
            old.refill = None
        old.close()

    def statistics(self) -> Statistics:
        leases = self.leases
        figures = {"keys": len(leases), "processes": leases.processes, "away": int(leases.away)}
        return {**super().statistics(), **figures}

    def acquirer(self) -> Callable[[Hashable, float], float]:
        if self.refill is None:
            client, where = self.shared.client, f"{self.binding.guard}.rate"
            if is_async(client):
                self.refill = TaskRefill(self.leases, async_scripts(client, where), self.binding.world)
            else:
                scripts = blocking_scripts(client, where, ANSWER_S)
                self.refill = ThreadRefill(self.leases, scripts, self.binding.world)
            self.leases.wake = self.refill.wake
        return self.leases.acquire

    def around_sync(self, call: Call, site: Site) -> Call:
        if not site.is_async and is_async(self.shared.client):
            blocking_scripts(self.shared.client, site.name, ANSWER_S)  # raises: nobody could run the refill
        return super().around_sync(call, site)

    def close(self) -> None:
        if self.refill is not None:
            self.refill.close()


class ExactLayer(SharedLayer):
    """Each call asks Redis; without an answer, local buckets decide until Redis is back."""

    def __init__(self, policy: Rate, shared: Shared, binding: Binding) -> None:
        super().__init__(policy, shared, binding)
        self.processes = shared.processes
        self._process = binding.world.token()
        self._lock = Lock()
        self._local: Callable[[Hashable, float], float] | None = None
        self._away_since: float | None = None
        self._joining = False
        self._join_at = -math.inf
        self.scripts: Scripts | None = None
        self.blocking: BlockingScripts | None = None
        self._background = Background()
        self._closed = False

    def adopt(self, old: Layer) -> None:
        super().adopt(old)
        if isinstance(old, ExactLayer):
            self.processes = old.processes
            if old.shared == self.shared:
                self.scripts, self.blocking = old.scripts, old.blocking
            else:
                old.close()

    def statistics(self) -> Statistics:
        figures = {"processes": self.processes, "away": int(self._local is not None)}
        return {**super().statistics(), **figures}

    async def admit(self, key: Hashable) -> None:
        scripts, local = self._asking(), self._local
        self._join_when_due(lambda: self._background.task(self._join(scripts)))
        if local is None:
            remaining_s = deadline.remaining(self.binding.now())
            try:
                async with deadline.within(self.binding.world, min(self.shared.patience_s, remaining_s)):
                    return self._settle(key, await scripts.run(TAKE, *self._question(key)))
            except (Away, TimeoutError) as error:
                deadline.check(self.binding, "rate")
                local = self._lose(error)
        return self._alone(local, key)

    def admit_sync(self, key: Hashable) -> None:
        scripts, local = self._asking_blocking(), self._local
        self._join_when_due(lambda: self._background.thread(lambda: self._join_blocking(scripts)))
        if local is None:
            try:
                return self._settle(key, scripts.run(TAKE, *self._question(key)))
            except Away as error:
                deadline.check(self.binding, "rate")
                local = self._lose(error)
        return self._alone(local, key)

    def _question(self, key: Hashable) -> tuple[tuple[str, str], tuple[float, float]]:
        quota = self.quota_of(key)
        if not quota.count:
            raise self.refused(key, math.inf)
        return (self.names.floor, self.names.bucket(key)), (interval_us(quota), tolerance_us(quota))

    def _settle(self, key: Hashable, wait_us: int) -> None:
        if wait_us:
            raise self.refused(key, wait_us / 1e6)
        self.counts.admitted += 1

    def _alone(self, local: Callable[[Hashable, float], float], key: Hashable) -> None:
        if wait_s := local(key, self.binding.now()):
            raise self.refused(key, wait_s)
        self.counts.admitted += 1

    def _lose(self, error: Exception) -> Callable[[Hashable, float], float]:
        now = self.binding.now()
        with self._lock:
            lost = self._local is None
            local = self._local = self._local or self.alone(now, self.processes)
            if lost:
                self._join_at, self._away_since = now + PROBE_S, now
        if lost:
            self.tell(True, str(error) or f"no answer in {self.shared.patience_s * 1000:.0f} ms")
        return local

    def _join_when_due(self, begin: Callable[[], None]) -> None:
        """Now and then, and while Redis is away often: say that this process is there, learn how many there are."""
        now = self.binding.now()
        if now < self._join_at or self._joining:
            return
        self._joining = True
        self._join_at = now + (MEMBER_TTL_S / 4 if self._local is None else PROBE_S)
        begin()

    def _joined(self, resumed: bool, processes: int) -> None:
        with self._lock:
            self.processes = max(processes, 1)
            back = resumed and self._local is not None
            if back:
                self._local = self._away_since = None
        if back:
            self.tell(False, f"{processes} processes")

    def _greeting(self) -> tuple[bool, tuple[str, str], list[Any]]:
        args = greeting(self._process, self._away_since, self.binding.now(), self.longest_s)
        return self._away_since is not None, (self.names.floor, self.names.members), args

    async def _join(self, scripts: Scripts) -> None:
        resume, keys, args = self._greeting()
        try:
            async with deadline.within(self.binding.world, self.shared.patience_s):
                reply = await scripts.run(LEND, keys, args)
            self._joined(resume, reply[0])
        except (Away, TimeoutError) as error:
            self._lose(error)
        finally:
            self._joining = False

    def _join_blocking(self, scripts: BlockingScripts) -> None:
        resume, keys, args = self._greeting()
        try:
            self._joined(resume, scripts.run(LEND, keys, args)[0])
        except Away as error:
            self._lose(error)
        except Exception:
            if not self._closed:  # otherwise its owner has closed the client meanwhile, as he may
                raise
        finally:
            self._joining = False

    def _asking(self) -> Scripts:
        if self.scripts is None:
            self.scripts = async_scripts(self.shared.client, f"{self.binding.guard}.rate")
        return self.scripts

    def _asking_blocking(self) -> BlockingScripts:
        if self.blocking is None:
            where = f"{self.binding.guard}.rate"
            self.blocking = blocking_scripts(self.shared.client, where, self.shared.patience_s)
        return self.blocking

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        key_of, admit = site.key(self.policy.key), self.admit
        self._asking()

        async def limited(args: Args, kwargs: Kwargs) -> Any:
            await admit(key_of(args, kwargs))
            return await call(args, kwargs)

        return limited

    def around_sync(self, call: Call, site: Site) -> Call:
        key_of, admit = site.key(self.policy.key), self.admit_sync
        self._asking_blocking()

        def limited(args: Args, kwargs: Kwargs) -> Any:
            admit(key_of(args, kwargs))
            return call(args, kwargs)

        return limited

    def gate(self, site: Site) -> Gate:
        return RateGate(site.key(self.policy.key), self.admit, self.admit_sync)

    def close(self) -> None:
        self._closed = True
        self._background.close()
        if self.blocking is not None:
            self.blocking.close()
        if self.scripts is not None:
            self._background.finish(self.scripts.close())

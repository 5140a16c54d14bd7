"""The layers of `rate`: what stands between a call and its buckets."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from gapless.resilience import deadline
from gapless.resilience.errors import RateLimited
from gapless.resilience.events import CallRejected
from gapless.resilience.keys import Key
from gapless.resilience.memory import Memory
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Gate, Kwargs, Layer, Site, Statistics
from gapless.resilience.rate import Rate
from gapless.resilience.rate_hot import HotBuckets
from gapless.resilience.rate_local import ROUNDING_S, LeakyBuckets, SlidingWindows, TokenBuckets
from gapless.resilience.rate_quota import Quota

HOTTEST = 10
"""Names that statistics give."""


class Buckets(Protocol):
    def acquire(self, key: Hashable, now: float) -> float:
        """0.0: admitted; otherwise the seconds after which a call will be."""
        ...

    def retune(self, quota: Quota) -> None: ...
    def note(self, key: Hashable) -> None: ...
    def dump(self, now: float) -> list[tuple[Any, ...]]: ...
    def load(self, keys: Iterable[Sequence[Any]], then: float) -> None: ...
    def __len__(self) -> int: ...


class Counts:
    __slots__ = ("admitted", "rejected", "waited")

    def __init__(self) -> None:
        self.admitted = self.rejected = self.waited = 0


B = TypeVar("B")


class PerKey(Generic[B]):
    """Buckets by key: keys with an override in buckets of their quota, all others in `rest`."""

    def __init__(self, rest: B, own: dict[Hashable, B]) -> None:
        self.rest, self.own = rest, own

    def of(self, key: Hashable) -> B:
        return self.own.get(key, self.rest)

    def all(self) -> list[B]:
        """Each once; those of overrides first."""
        return list({id(each): each for each in [*self.own.values(), self.rest]}.values())


def memory_of(form: str, buckets: PerKey[Any], now: float) -> Memory:
    return Memory(form=form, keys=[entry for each in buckets.all() for entry in each.dump(now)])


def load_into(form: str, buckets: PerKey[Any], memory: Memory, then: float) -> None:
    """Raises ValueError and TypeError."""
    if memory.form != form:
        raise ValueError(f"it is of {memory.form}, and this is {form}")
    for entry in memory.keys:
        buckets.of(entry[0]).load([entry], then)


def layer_of(policy: Rate, binding: Binding) -> Layer:
    if policy.shared is not None:
        from gapless.resilience import rate_shared_layers

        return rate_shared_layers.layer_of(policy, binding)
    return QueueLayer(policy, binding) if policy.mode == "leaky" else LocalLayer(policy, binding)


def buckets_of(policy: Rate, quota: Quota, floor: float = 0.0) -> Buckets:
    if policy.mode == "sliding":
        return SlidingWindows(quota)
    if policy.hot is not None:
        return HotBuckets(quota, policy.hot.keys, floor)
    return TokenBuckets(quota, floor)


class RateLayer(Layer):
    """What all kinds have in common: counters, and how a refusal looks."""

    kind: ClassVar[str] = "rate"

    def __init__(self, policy: Rate, binding: Binding) -> None:
        self.policy, self.binding = policy, binding
        self.counts = Counts()

    def adopt(self, old: Layer) -> None:
        if isinstance(old, RateLayer):
            self.counts = old.counts
            if type(old) is not type(self):
                old.close()

    def statistics(self) -> Statistics:
        counts = self.counts
        return {"admitted": counts.admitted, "rejected": counts.rejected, "waited": counts.waited}

    def refused(self, key: Hashable, wait_s: float) -> RateLimited:
        """The error to raise; it is counted and told."""
        self.counts.rejected += 1
        limit = str(self.policy.quota_of(key))
        retry_after_s = wait_s if wait_s < math.inf else None
        binding = self.binding
        if binding.hooks:
            told = CallRejected(guard=binding.guard, policy="rate", reason=limit, key=key, retry_after_s=retry_after_s)
            binding.emit(told)
        whom = f" for {key!r}" if self.policy.key else ""
        remedy = "It is refused by its override." if retry_after_s is None else f"Ask again in {wait_s:.3f} s."
        return RateLimited(
            f"{binding.guard}: more than {limit}{whom}",
            remedy,
            policy="rate",
            guard=binding.guard,
            retry_after_s=retry_after_s,
        )


class InstantLayer(RateLayer):
    """Admitted or refused at once."""

    def acquirer(self) -> Callable[[Hashable, float], float]:
        """As `Buckets.acquire`."""
        raise NotImplementedError

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        return self.around_sync(call, site)  # there is nothing to wait for: a coroutine would only cost

    def around_sync(self, call: Call, site: Site) -> Call:
        key_of, acquire, now = site.key(self.policy.key), self.acquirer(), self.binding.now
        counts, refused = self.counts, self.refused

        def limited(args: Args, kwargs: Kwargs) -> Any:
            key = key_of(args, kwargs)
            if wait_s := acquire(key, now()):
                raise refused(key, wait_s)
            counts.admitted += 1
            return call(args, kwargs)

        return limited

    def gate(self, site: Site) -> Gate:
        acquire, now = self.acquirer(), self.binding.now

        def admit(key: Hashable) -> None:
            if wait_s := acquire(key, now()):
                raise self.refused(key, wait_s)
            self.counts.admitted += 1

        async def admit_async(key: Hashable) -> None:
            admit(key)

        return RateGate(site.key(self.policy.key), admit_async, admit)


class LocalLayer(InstantLayer):
    """Token bucket, sliding window or hot keys."""

    def __init__(self, policy: Rate, binding: Binding) -> None:
        super().__init__(policy, binding)
        by_quota = {each: buckets_of(policy.plain(), each) for _, each in policy.overrides}
        own = {key: by_quota[each] for key, each in policy.overrides}
        self.buckets = PerKey(buckets_of(policy, policy.quota), own)

    @property
    def form(self) -> str:
        return "rate.hot" if self.policy.hot else f"rate.{self.policy.mode}"

    def dump(self, now: float) -> Memory:
        return memory_of(self.form, self.buckets, now)

    def load(self, memory: Memory, then: float) -> None:
        load_into(self.form, self.buckets, memory, then)

    def refused(self, key: Hashable, wait_s: float) -> RateLimited:
        self.buckets.of(key).note(key)
        return super().refused(key, wait_s)

    def adopt(self, old: Layer) -> None:
        super().adopt(old)
        if isinstance(old, LocalLayer) and (old.policy.mode, old.policy.hot) == (self.policy.mode, self.policy.hot):
            kept = {each: old.buckets.own[key] for key, each in old.policy.overrides}
            own = {key: kept.get(each, self.buckets.own[key]) for key, each in self.policy.overrides}
            old.buckets.rest.retune(self.policy.quota)
            self.buckets = PerKey(old.buckets.rest, own)

    def statistics(self) -> Statistics:
        rest = self.buckets.rest
        figures = {**super().statistics(), "keys": len(rest)}
        return {**figures, "hottest": rest.hottest(HOTTEST)} if isinstance(rest, HotBuckets) else figures

    def around_sync(self, call: Call, site: Site) -> Call:
        rest = self.buckets.rest
        return self._by_token(rest, call, site) if isinstance(rest, TokenBuckets) else super().around_sync(call, site)

    def _by_token(self, buckets: TokenBuckets, call: Call, site: Site) -> Call:
        """The usual case, with the key's function and the beginning of `TokenBuckets.acquire` (see there) written out:
        to call them would cost more than all that they do."""
        key_of, acquire, now = site.key(self.policy.key), self.acquirer(), self.binding.now
        place, own, counts, refused = site.place(self.policy.key), self.buckets.own, self.counts, self.refused

        def limited(args: Args, kwargs: Kwargs) -> Any:
            key = args[place] if place < len(args) else key_of(args, kwargs)
            moment, near = now(), buckets.near
            if key in near and not (own and key in own):
                full_at = near[key]
                if full_at < moment:
                    full_at = moment
                full_at += buckets.interval_s
                if full_at - moment - buckets.tolerance_s <= ROUNDING_S:
                    near[key] = full_at
                    counts.admitted += 1
                    return call(args, kwargs)
            if wait_s := acquire(key, moment):
                raise refused(key, wait_s)
            counts.admitted += 1
            return call(args, kwargs)

        return limited

    def acquirer(self) -> Callable[[Hashable, float], float]:
        if not self.buckets.own:
            return self.buckets.rest.acquire
        of = self.buckets.of
        return lambda key, now: of(key).acquire(key, now)


class QueueLayer(RateLayer):
    """The leaky bucket: calls wait for their slot."""

    def __init__(self, policy: Rate, binding: Binding) -> None:
        super().__init__(policy, binding)
        by_quota = {each: LeakyBuckets(each, policy.queue) for _, each in policy.overrides}
        own = {key: by_quota[each] for key, each in policy.overrides}
        self.buckets = PerKey(LeakyBuckets(policy.quota, policy.queue), own)

    def dump(self, now: float) -> Memory:
        return memory_of("rate.leaky", self.buckets, now)

    def load(self, memory: Memory, then: float) -> None:
        load_into("rate.leaky", self.buckets, memory, then)

    def adopt(self, old: Layer) -> None:
        super().adopt(old)
        if isinstance(old, QueueLayer):
            old.buckets.rest.retune(self.policy.quota, self.policy.queue)
            self.buckets = PerKey(old.buckets.rest, self.buckets.own)

    def statistics(self) -> Statistics:
        return {**super().statistics(), "keys": len(self.buckets.rest)}

    def _reserve(self, key: Hashable) -> tuple[float, float]:
        """(seconds to wait, the slot). Raises RateLimited."""
        now = self.binding.now()
        wait_s, refused_s = self.buckets.of(key).reserve(key, now, deadline.current.get() - now)
        if refused_s:
            raise self.refused(key, refused_s)
        return wait_s, now + wait_s

    async def turn(self, key: Hashable) -> None:
        wait_s, slot = self._reserve(key)
        if wait_s > 0.0:
            self.counts.waited += 1
            try:
                await self.binding.world.sleep(wait_s)
            except BaseException:
                self.buckets.of(key).cancel(key, slot, self.binding.now())
                raise
            deadline.check(self.binding, "rate")
        self.counts.admitted += 1

    def turn_sync(self, key: Hashable) -> None:
        wait_s, _ = self._reserve(key)
        if wait_s > 0.0:
            self.counts.waited += 1
            self.binding.world.pause(wait_s)
            deadline.check(self.binding, "rate")
        self.counts.admitted += 1

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        key_of, turn = site.key(self.policy.key), self.turn

        async def limited(args: Args, kwargs: Kwargs) -> Any:
            await turn(key_of(args, kwargs))
            return await call(args, kwargs)

        return limited

    def around_sync(self, call: Call, site: Site) -> Call:
        key_of, turn = site.key(self.policy.key), self.turn_sync

        def limited(args: Args, kwargs: Kwargs) -> Any:
            turn(key_of(args, kwargs))
            return call(args, kwargs)

        return limited

    def gate(self, site: Site) -> Gate:
        return RateGate(site.key(self.policy.key), self.turn, self.turn_sync)


class RateGate:
    """`guard.enter`: a token is spent, so that there is nothing to give back."""

    def __init__(self, key_of: Key, admit: Callable[[Hashable], Any], admit_sync: Callable[[Hashable], None]) -> None:
        self._key_of, self._admit, self._admit_sync = key_of, admit, admit_sync

    async def acquire(self, kwargs: Kwargs) -> None:
        await self._admit(self._key_of((), kwargs))

    def acquire_sync(self, kwargs: Kwargs) -> None:
        self._admit_sync(self._key_of((), kwargs))

    def release(self, held: Any, error: BaseException | None) -> BaseException | None:
        return None

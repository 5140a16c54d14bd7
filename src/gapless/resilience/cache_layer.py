"""The cache at work in one guard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextvars import Context
from threading import Lock
from typing import TYPE_CHECKING, Any

from gapless.core.errors import ConfigError
from gapless.resilience import deadline
from gapless.resilience.cache_bloom import Known, UnknownKey
from gapless.resilience.cache_flight import Flights
from gapless.resilience.cache_store import CacheStore, Entry, MemoryStore
from gapless.resilience.causes import causes
from gapless.resilience.errors import DeadlineExceeded, Transient
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Kwargs, Layer, Site, Statistics

if TYPE_CHECKING:
    from gapless.resilience.cache import Cache

_log = logging.getLogger("gapless.cache")

Name = tuple[str, Hashable]
RESTING = 1_000
"""Keys whose refresh has failed and that wait for the next one; beyond that they are forgotten, and tried at once."""


class CacheState:
    """What outlives a reload."""

    def __init__(self, store: CacheStore) -> None:
        self.store = store
        self.flights = Flights()
        self.sync_flights: dict[Name, Future[Any]] = {}
        self.lock = Lock()
        self.rest: dict[Name, float] = {}
        self.rebuilds: set[asyncio.Task[None]] = set()
        self.hits = self.stale = self.missed = self.called = self.refreshed = self.refresh_failed = 0
        self.negative_hits = self.served_on_error = self.refused = self.joined = 0


class CacheLayer(Layer):
    kind = "cache"

    def __init__(self, policy: Cache, binding: Binding) -> None:
        self._policy, self._binding = policy, binding
        self._kinds, self._asked = causes(policy.on)
        self._state = CacheState(MemoryStore() if policy.store is None else policy.store)
        self._clock = self._clock_of(self._state.store)

    def adopt(self, old: Layer) -> None:
        assert isinstance(old, CacheLayer)
        state = old._state  # noqa: SLF001 its own kind
        if self._policy.store is not None:
            state.store = self._policy.store
        elif state.store.shared:
            state.store = MemoryStore()
        self._state = state
        self._clock = self._clock_of(state.store)

    def _clock_of(self, store: CacheStore) -> Callable[[], float]:
        return self._binding.world.time if store.shared else self._binding.now

    def statistics(self) -> Statistics:
        state, known = self._state, self._policy.known
        names = ("hits", "stale", "missed", "called", "refreshed", "refresh_failed", "negative_hits")
        whole = {name: getattr(state, name) for name in (*names, "served_on_error", "refused")}
        whole |= {"joined": state.flights.joined + state.joined, "in_flight": len(state.flights)}
        whole |= {"store_failed": state.store.failures}
        if known is not None:
            whole |= {"known": len(known), "known_rebuilt": known.rebuilt, "known_failed": known.failed}
        return whole

    def close(self) -> None:
        self._state.flights.cancel()
        for task in list(self._state.rebuilds):
            if not task.get_loop().is_closed():
                task.get_loop().call_soon_threadsafe(task.cancel)

    # Async functions.

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        state, name_of, clock = self._state, self._namer(site), self._clock
        store = state.store
        peek = store.peek if isinstance(store, MemoryStore) else None
        known, world = self._policy.known if peek is not None else None, self._binding.world

        async def cached(args: Args, kwargs: Kwargs) -> Any:
            name = name_of(args, kwargs)
            entry = peek(name) if peek is not None else await self._ask(store, name)
            if entry is not None:
                now = clock()
                if now < entry.fresh_until:
                    return self._hit(entry)
                if now < entry.stale_until:
                    self._refresh(name, call, args, kwargs, now)
                    state.stale += 1
                    return entry.answer()
            if known is not None:
                self._admit(known, name)
            state.missed += 1
            try:
                return await state.flights.fly(
                    name, self._work(name, call, args, kwargs), world, self._policy.refresh_s
                )
            except self._kinds as error:
                return self._instead(entry, error)

        return cached

    async def _ask(self, store: CacheStore, name: Name) -> Entry | None:
        """A store that costs a round trip is not even asked for what there cannot be."""
        if self._policy.known is not None:
            self._admit(self._policy.known, name)
        return await store.get(name, self._binding.world)

    def _work(self, name: Name, call: AsyncCall, args: Args, kwargs: Kwargs) -> Callable[[], Any]:
        async def work() -> Any:
            store, world = self._state.store, self._binding.world
            if store.shared:
                # Another process, or the flight that ended while this caller was asking, may have filled it.
                entry = await store.get(name, world)
                if entry is not None and self._clock() < entry.fresh_until:
                    return entry.answer()
            try:
                self._state.called += 1
                answer = await call(args, kwargs)
            except self._policy.missing as error:
                await self._keep(name, self._absent(error))
                raise
            await self._keep(name, self._entry(answer))
            return answer

        return work

    async def _keep(self, name: Name, entry: Entry | None) -> None:
        if entry is not None:
            await self._state.store.set(name, entry, entry.until() - self._clock(), self._binding.world)

    def _refresh(self, name: Name, call: AsyncCall, args: Args, kwargs: Kwargs, now: float) -> None:
        state, policy = self._state, self._policy
        if name in state.flights or state.rest.get(name, 0.0) > now:
            return
        work = self._work(name, call, args, kwargs)

        async def refresh() -> Any:
            try:
                answer = await work()
            except Exception as error:
                if not isinstance(error, policy.missing):
                    state.refresh_failed += 1
                    self._rest(name)
                raise
            state.refreshed += 1
            state.rest.pop(name, None)
            return answer

        state.flights.begin(name, refresh, self._binding.world, policy.refresh_s)

    def _rest(self, name: Name) -> None:
        """The next refresh is not tried at once: the other side is in trouble, and everybody has an answer."""
        rest = self._state.rest
        if len(rest) >= RESTING:
            rest.clear()
        rest[name] = self._clock() + min(self._policy.stale_s / 10, 1.0)

    # Sync functions: the caller who is first makes the call himself.

    def around_sync(self, call: Call, site: Site) -> Call:
        state, name_of, clock, store = self._state, self._namer(site), self._clock, self._state.store
        if not isinstance(store, MemoryStore):
            raise ConfigError(
                f"guard {self._binding.guard!r}: {site.name} is not async, its cache is shared",
                "Leave out `store`, or make the function async.",
            )
        peek, known = store.peek, self._policy.known

        def cached(args: Args, kwargs: Kwargs) -> Any:
            name = name_of(args, kwargs)
            entry = peek(name)
            if entry is not None:
                now = clock()
                if now < entry.fresh_until:
                    return self._hit(entry)
                if now < entry.stale_until:
                    return self._refresh_sync(name, store, entry, call, args, kwargs)
            if known is not None:
                self._admit(known, name)
            state.missed += 1
            try:
                return self._fly_sync(name, store, call, args, kwargs)
            except self._kinds as error:
                return self._instead(entry, error)

        return cached

    def _refresh_sync(
        self, name: Name, store: MemoryStore, entry: Entry, call: Call, args: Args, kwargs: Kwargs
    ) -> Any:
        """One caller pays for the refresh, the others get the old answer; so does he when it fails."""
        state = self._state
        state.stale += 1
        if name in state.sync_flights or state.rest.get(name, 0.0) > self._clock():
            return entry.answer()
        try:
            answer = self._fly_sync(name, store, call, args, kwargs)
        except self._policy.missing:
            raise
        except Exception:  # noqa: BLE001 counted and logged; there is an answer
            state.refresh_failed += 1
            _log.warning("the refresh for %r failed", name, exc_info=True)
            return entry.answer()
        state.refreshed += 1
        return answer

    def _fly_sync(self, name: Name, store: MemoryStore, call: Call, args: Args, kwargs: Kwargs) -> Any:
        state, mine = self._state, Future[Any]()
        with state.lock:
            entry = store.peek(name)  # it may have been filled since the caller looked
            if entry is not None and self._clock() < entry.fresh_until:
                return entry.answer()
            theirs = state.sync_flights.setdefault(name, mine)
        if theirs is not mine:
            state.joined += 1
            return self._wait_sync(theirs)
        try:
            answer = self._call_sync(name, store, call, args, kwargs)
        except BaseException as error:
            mine.set_exception(error if isinstance(error, Exception) else Transient("the call for the same key ended"))
            raise
        else:
            mine.set_result(answer)
            return answer
        finally:
            with state.lock:
                del state.sync_flights[name]

    def _call_sync(self, name: Name, store: MemoryStore, call: Call, args: Args, kwargs: Kwargs) -> Any:
        self._state.called += 1
        try:
            answer = call(args, kwargs)
        except self._policy.missing as error:
            if (entry := self._absent(error)) is not None:
                store.keep(name, entry)
            raise
        except Exception:
            self._rest(name)
            raise
        if (entry := self._entry(answer)) is not None:
            store.keep(name, entry)
        return answer

    def _wait_sync(self, theirs: Future[Any]) -> Any:
        left_s = deadline.remaining(self._binding.now())
        try:
            return theirs.result(None if left_s == float("inf") else max(left_s, 0.0))
        except TimeoutError:
            if theirs.done():
                raise  # the call's own
            raise DeadlineExceeded(
                f"{self._binding.guard}: the deadline passed while the call for the same key was under way",
                policy="cache",
                guard=self._binding.guard,
            ) from None

    # Both.

    def _namer(self, site: Site) -> Callable[[Args, Kwargs], Name]:
        key, prefix = self._policy.key_at(site), self._policy.name or f"{self._binding.guard}.{site.name}"
        return lambda args, kwargs: (prefix, key(args, kwargs))

    def _admit(self, known: Known, name: Name) -> None:
        if known.due(self._binding.now()):
            self._rebuild(known)
        if name[1] not in known:
            self._state.refused += 1
            raise UnknownKey(f"{name[1]!r} is no key of {name[0]}", policy="cache", guard=self._binding.guard)

    def _rebuild(self, known: Known) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a sync function outside of a loop: `Known.fill` is its way
        task = loop.create_task(
            known.rebuild(self._binding.world), context=Context()
        )  # not bound to a caller's deadline
        self._state.rebuilds.add(task)
        task.add_done_callback(self._state.rebuilds.discard)

    def _hit(self, entry: Entry) -> Any:
        if entry.missing:
            self._state.negative_hits += 1
        else:
            self._state.hits += 1
        return entry.answer()

    def _instead(self, entry: Entry | None, error: BaseException) -> Any:
        """The last answer in place of a failure, if there is one that may be used so."""
        if entry is None or self._clock() >= entry.kept_until or (self._asked is not None and not self._asked(error)):
            raise error
        self._state.served_on_error += 1
        return entry.answer()

    def _entry(self, answer: Any) -> Entry | None:
        if answer is None:
            return self._absent(None)
        policy, now = self._policy, self._clock()
        fresh_until = now + policy.ttl_s * (1.0 - policy.spread * self._binding.world.random())
        return Entry(
            answer,
            fresh_until=fresh_until,
            stale_until=fresh_until + policy.stale_s,
            kept_until=fresh_until + policy.if_error_s,
        )

    def _absent(self, error: Exception | None) -> Entry | None:
        until = self._clock() + self._policy.negative_s
        if not self._policy.negative_s:
            return None
        return Entry(error, fresh_until=until, stale_until=until, kept_until=until, missing=True)

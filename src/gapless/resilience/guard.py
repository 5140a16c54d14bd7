"""A guard: named policies around functions, in one pipeline.

    payments = guard("payments", deadline(2.0), retry(on=Transient), breaker(rate=0.5), limit(200))

    @payments
    async def charge(user, amount, idempotency_key): ...

    async with payments.enter(user=user): ...      # admission only

Each function gets one closure, made of one closure per policy; `replace` swaps it between two calls and keeps the
state. Calls under way end by the policies that they began with.
"""

from __future__ import annotations

import functools
import inspect
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakSet

from gapless.core.errors import ConfigError
from gapless.core.world import RealWorld
from gapless.resilience.errors import DeadlineExceeded, Rejected
from gapless.resilience.events import GuardHook, Reloaded, tell
from gapless.resilience.memory import Memory, Part, number
from gapless.resilience.order import check_order
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Common, Gate, Kwargs, Layer, Policy, Site

if TYPE_CHECKING:
    from gapless.core.ports import World

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

MARK = "__gapless_idempotent__"
BUDGET = "budget"
"""Where the guard's own budget stands among what its policies remember."""


def idempotent(function: F) -> F:
    """Marks a function that may be called again without a second effect. Put it below the guard."""
    setattr(function, MARK, True)
    return function


def guard(name: str, *policies: Policy, world: World | None = None) -> Guard:
    """A guard of these policies, the first one outermost. Raises ConfigError when their order is unsafe."""
    return Guard(name, *policies, world=world)


class _Counts:
    """Of all functions of one guard."""

    __slots__ = ("calls", "cancelled", "expired", "failed", "rejected")

    def __init__(self) -> None:
        self.calls = self.failed = self.rejected = self.expired = self.cancelled = 0

    def count(self, error: BaseException) -> None:
        if isinstance(error, DeadlineExceeded):
            self.expired += 1
        elif isinstance(error, Rejected):
            self.rejected += 1
        elif isinstance(error, CancelledError):
            self.cancelled += 1
        else:
            self.failed += 1


class _Pipeline:
    """One guarded function: `call` is replaced by a reload."""

    __slots__ = ("__weakref__", "call", "function", "site")

    def __init__(self, function: Callable[..., Any], site: Site) -> None:
        self.function, self.site = function, site
        self.call: Callable[[Args, Kwargs], Any] = _innermost(function)


def _innermost(function: Callable[..., Any]) -> Call:
    def innermost(args: Args, kwargs: Kwargs) -> Any:
        return function(*args, **kwargs)

    return innermost


class Guard:
    """Owns the state of its policies. Made by `guard`; used as a decorator and through `enter`."""

    def __init__(self, name: str, *policies: Policy, world: World | None = None) -> None:
        self.name = name
        self.policies: tuple[Policy, ...] = ()
        self._world = world or RealWorld()
        self._common = Common()
        self._counts = _Counts()
        self._layers: tuple[Layer, ...] = ()
        self._gates: tuple[Gate, ...] = ()
        self._pipelines: WeakSet[_Pipeline] = WeakSet()
        self._changing = Lock()
        check_order(name, [each.kind for each in policies])
        self._swap(policies)

    def __repr__(self) -> str:
        return f"guard({self.name!r}, {', '.join(map(repr, self.policies))})"

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]:
        """Guard a function; its name, signature and type stay. Raises ConfigError when a policy does not suit it."""
        site = _site_of(function)
        pipeline = _Pipeline(function, site)
        wrapped = self._async(pipeline) if site.is_async else self._sync(pipeline)
        with self._changing:
            pipeline.call = _built(self._layers, pipeline)
            self._pipelines.add(pipeline)
        return functools.update_wrapper(wrapped, function)

    def enter(self, **given: Any) -> Admission:
        """`async with` or `with`: admission by deadline, breaker, rate and limit. `given` feeds templates of keys."""
        return Admission(self._gates, self._counts, given)

    def subscribe(self, hook: GuardHook) -> Callable[[], None]:
        """Tell `hook` what happens (`gapless.resilience.events`); returns the way to end that."""
        self._common.hooks = (*self._common.hooks, hook)

        def unsubscribe() -> None:
            self._common.hooks = tuple(each for each in self._common.hooks if each is not hook)

        return unsubscribe

    def statistics(self) -> dict[str, Any]:
        """Counters since the start: of the guard, and below `policies` of each policy by kind (`rate`, `rate_2` …)."""
        counts = self._counts
        whole: dict[str, Any] = {name: getattr(counts, name) for name in _Counts.__slots__}
        whole["policies"] = {name: dict(layer.statistics()) for name, layer in self.layers().items()}
        return whole

    def layers(self) -> dict[str, Layer]:
        """The policies at work, by kind and place: `rate`, `rate_2` …"""
        return {kind if place == 0 else f"{kind}_{place + 1}": each for (kind, place), each in self._placed().items()}

    def check(self, policies: Sequence[Policy]) -> None:
        """Raises ConfigError when `replace` would; changes nothing."""
        check_order(self.name, [each.kind for each in policies])
        trial = self._bound(policies, Common())
        try:
            for pipeline in list(self._pipelines):
                _built(trial, pipeline)
        finally:
            for layer in trial:
                layer.close()

    def replace(self, *policies: Policy) -> None:
        """Other policies from the next call on. State is kept where kind and place are the same: windows, tokens,
        counters. Raises ConfigError and changes nothing when they do not fit together or to a function."""
        self.check(policies)
        before = self.policies
        self._swap(policies)
        if self._common.hooks:
            tell(self._common.hooks, Reloaded(guard=self.name, before=before, after=self.policies))

    def dump(self) -> list[Part]:
        """What its policies remember, for a process that comes after this one."""
        now, budget = self._world.now(), self._common.budget
        known = {place: layer.dump(now) for place, layer in self.layers().items()}
        if budget is not None:
            known[BUDGET] = Memory(form=BUDGET, facts={"tokens": budget.left()})
        return [Part(self.name, place, memory) for place, memory in known.items() if memory is not None]

    def load(self, place: str, memory: Memory, then: float) -> None:
        """What a process before has dumped at the moment `then` of this one's clock. Raises ConfigError when the policy
        is not there, or does not understand it."""
        layer, budget = self.layers().get(place), self._common.budget
        try:
            if layer is not None:
                layer.load(memory, then)
            elif place == BUDGET and budget is not None:
                budget.inherit(number(memory.facts["tokens"], 0.0), then)
            else:
                raise ValueError("there is no such policy now")
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"guard {self.name!r}: the memory of {place} is not taken over: {error}", "It begins anew."
            ) from error

    def force(self, mode: str) -> None:
        """Have its breakers "open", "closed" or "disabled" until told otherwise; "automatic": they decide again, from
        closed with empty windows. Reloads and restarts keep it. Raises ConfigError."""
        from gapless.resilience.breaker import BreakerLayer  # only who has breakers pays for them

        breakers = [layer for layer in self._layers if isinstance(layer, BreakerLayer)]
        if not breakers:
            raise ConfigError(f"guard {self.name!r} has no breaker to be forced", "Give it one: breaker().")
        for each in breakers:
            each.force(mode)

    def close(self) -> None:
        """Stop what policies do in the background."""
        for layer in self._layers:
            layer.close()

    def _swap(self, policies: Sequence[Policy]) -> None:
        with self._changing:
            layers, old = self._bound(policies, self._common), self._placed()
            for place, layer in _placed(layers).items():
                if (before := old.pop(place, None)) is not None:
                    layer.adopt(before)
            site = Site(name=f"{self.name}.enter")
            gates = tuple(gate for layer in layers if (gate := layer.gate(site)) is not None)
            calls = [(pipeline, _built(layers, pipeline)) for pipeline in self._pipelines]
            self.policies, self._layers, self._gates = tuple(policies), layers, gates
            for pipeline, call in calls:
                pipeline.call = call
        for dropped in old.values():
            dropped.close()

    def _bound(self, policies: Sequence[Policy], common: Common) -> tuple[Layer, ...]:
        kinds = tuple(each.kind for each in policies)
        binding = Binding(guard=self.name, world=self._world, now=self._world.now, kinds=kinds, common=common)
        budgets = (getattr(each, "budget", None) for each in policies)
        common.decide(next((each for each in budgets if each is not None), None), self._world)
        return tuple(each.bind(binding) for each in policies)

    def _placed(self) -> dict[tuple[str, int], Layer]:
        return _placed(self._layers)

    def _async(self, pipeline: _Pipeline) -> Callable[..., Any]:
        counts = self._counts

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            counts.calls += 1
            try:
                return await pipeline.call(args, kwargs)
            except BaseException as error:
                counts.count(error)
                raise

        return guarded

    def _sync(self, pipeline: _Pipeline) -> Callable[..., Any]:
        counts = self._counts

        def guarded(*args: Any, **kwargs: Any) -> Any:
            counts.calls += 1
            try:
                return pipeline.call(args, kwargs)
            except BaseException as error:
                counts.count(error)
                raise

        return guarded


class Admission:
    """One `enter`: takes what each policy gives, outermost first, and gives it back in reverse."""

    __slots__ = ("_counts", "_gates", "_given", "_held")

    def __init__(self, gates: tuple[Gate, ...], counts: _Counts, given: Kwargs) -> None:
        self._gates, self._counts, self._given = gates, counts, given
        self._held: list[tuple[Gate, Any]] = []

    async def __aenter__(self) -> None:
        self._counts.calls += 1
        try:
            for gate in self._gates:
                self._held.append((gate, await gate.acquire(self._given)))
        except BaseException as error:
            self._leave(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def __enter__(self) -> None:
        self._counts.calls += 1
        try:
            for gate in self._gates:
                self._held.append((gate, gate.acquire_sync(self._given)))
        except BaseException as error:
            self._leave(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        """Give everything back; raises what a gate wants raised instead of `error`."""
        now = error
        while self._held:
            gate, held = self._held.pop()
            now = gate.release(held, now) or now
        if now is not None:
            self._counts.count(now)
        if now is not None and now is not error:
            raise now from error


class Guards:
    """Guards by name, for whoever loads them from a file or a store and replaces them together."""

    def __init__(self, world: World | None = None) -> None:
        self._world = world or RealWorld()
        self._guards: dict[str, Guard] = {}
        self._loaded: set[str] = set()

    def __iter__(self) -> Iterator[Guard]:
        return iter(list(self._guards.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._guards

    def get(self, name: str) -> Guard:
        """The guard of that name; one without policies until they are defined, so that code may ask before a file
        has been read."""
        if name not in self._guards:
            self._guards[name] = Guard(name, world=self._world)
        return self._guards[name]

    def define(self, name: str, *policies: Policy) -> Guard:
        """Give the guard of that name these policies."""
        found = self.get(name)
        found.replace(*policies)
        return found

    def add(self, guard: Guard) -> Guard:
        """Take in one that was made elsewhere. Raises ConfigError when another one has its name."""
        if self._guards.setdefault(guard.name, guard) is not guard:
            raise ConfigError(f"there is another guard {guard.name!r}", "Give each guard a name of its own.")
        return guard

    def replace(self, wanted: Mapping[str, Sequence[Policy]]) -> tuple[str, ...]:
        """All of these or none: everything is checked before anything is swapped. Returns the names that changed.

        A guard that was named here before and no longer is loses its policies; one that only `define` knows keeps them.
        """
        whole = {name: tuple(wanted.get(name, ())) for name in sorted({*self._loaded, *wanted})}
        for name, policies in whole.items():
            (self._guards.get(name) or Guard(name, world=self._world)).check(policies)
        changed = tuple(name for name, policies in whole.items() if self.get(name).policies != policies)
        for name in changed:
            self.get(name).replace(*whole[name])
        self._loaded = set(wanted)
        return changed

    def close(self) -> None:
        for each in self._guards.values():
            each.close()


def _site_of(function: Callable[..., Any]) -> Site:
    name = getattr(function, "__qualname__", repr(function))
    target = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if any(check(each) for each in (function, target) for check in _GENERATORS):
        raise ConfigError(
            f"{name} is a generator: its call ends before its work begins",
            "Guard a function that consumes it, or use `enter` around the loop.",
        )
    return Site(
        name=name,
        signature=inspect.signature(function),
        is_async=inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(target),
        idempotent=bool(getattr(function, MARK, False)),
    )


_GENERATORS = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def _built(layers: Sequence[Layer], pipeline: _Pipeline) -> Callable[[Args, Kwargs], Any]:
    call = _innermost(pipeline.function)
    if not pipeline.site.is_async:
        for layer in reversed(layers):
            call = layer.around_sync(call, pipeline.site)
        return call
    around: AsyncCall = call
    for layer in reversed(layers):
        around = layer.around(around, pipeline.site)
    return around


def _placed(layers: Sequence[Layer]) -> dict[tuple[str, int], Layer]:
    """Layers by kind and place among their kind."""
    placed: dict[tuple[str, int], Layer] = {}
    for layer in layers:
        place = sum(kind == layer.kind for kind, _ in placed)
        placed[layer.kind, place] = layer
    return placed

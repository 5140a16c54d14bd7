"""The contract between policies and the guard.

A **policy** is a frozen value that says what is wanted. `policy.bind(binding)` makes its **layer**: the state of this
policy in one guard, shared by every function that the guard wraps. For each function (a **site**) the layer gives one
closure around the next layer's, built once and called for each call:

    class Bulkhead(Value):                                # a frozen dataclass does as well
        kind: ClassVar[str] = "limit"
        max: int
        def bind(self, binding: Binding) -> Layer:
            return BulkheadLayer(self, binding)

    class BulkheadLayer(Layer):
        def around(self, call: AsyncCall, site: Site) -> AsyncCall:
            state = self.state                       # bound locals: the closure is the hot path
            async def limited(args: Args, kwargs: Kwargs) -> Any:
                if state.busy >= state.max:
                    await state.turn()               # raises Overloaded; cancelled, it holds nothing
                else:
                    state.busy += 1
                try:
                    return await call(args, kwargs)
                finally:
                    state.leave()
            return limited

Rules that keep the whole pipeline right and quick:

- Arguments travel as one tuple and one dict (`call(args, kwargs)`), neither of which is ever changed: unpacking and
  packing them in every layer would cost more than the layers do.
- A permit is taken before the `try` whose `finally` gives it back, with no await between. A waiter that is cancelled
  (or whose deadline passes) while it waits holds nothing afterwards; a permit granted to it in the same moment goes on
  to the next one.
- Time is `binding.now()`; waits are `binding.world.sleep` (async), `binding.world.pause` (threads). No wait goes beyond
  `deadline.current.get()`; nothing starts at or after it (`deadline.check(binding, kind)` raises).
- `CancelledError` with `binding.now() >= deadline.current.get()` is the deadline's doing: it counts as failed and slow.
  Before that moment it is a client's own cancellation and counts as nothing. `deadline.cut(now)` tells.
- `Rejected` from a layer further in says nothing about the other side: a breaker does not count it, except
  `DeadlineExceeded` with `started`.
- Counters are plain ints in the layer's state. Events only `if binding.hooks:`.
- State is touched by threads too (sync functions): short critical sections under a `threading.Lock`, never across the
  call. What one bytecode does (`count += 1`) needs none.
- After a reload, `adopt(old)` takes over the state object of the layer before (same kind, same place among its kind),
  so that calls under way and new ones share it, and applies the new policy's numbers to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from inspect import Signature
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gapless.core.value import Value
from gapless.resilience.budget import Budget, Ratio
from gapless.resilience.events import GuardEvent, GuardHook, tell
from gapless.resilience.keys import Key, compile_key, place_of
from gapless.resilience.memory import Memory

if TYPE_CHECKING:
    from gapless.core.ports import World

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
AsyncCall = Callable[[Args, Kwargs], Awaitable[Any]]
Call = Callable[[Args, Kwargs], Any]
Statistics = Mapping[str, Any]


class Common:
    """What outlives a reload of a guard's policies."""

    __slots__ = ("budget", "hooks", "shared")

    def __init__(self, hooks: tuple[GuardHook, ...] = ()) -> None:
        self.hooks = hooks
        self.budget: Budget | None = None
        self.shared = False
        """The budget was given, and may be that of others too: its ratio is not this guard's to change."""

    def decide(self, wanted: Ratio | Budget | None, world: World) -> None:
        """The tokens stay where only the ratio is another."""
        if isinstance(wanted, Budget):
            self.budget, self.shared = wanted, True
        elif self.budget is None or self.shared:
            self.budget, self.shared = Budget(wanted or Ratio(), world), False
        else:
            self.budget.ratio = wanted or Ratio()


class Binding:
    """The guard, as its layers see it."""

    __slots__ = ("common", "guard", "kinds", "now", "world")

    def __init__(
        self,
        *,
        guard: str,
        world: World,
        now: Callable[[], float],
        kinds: tuple[str, ...] = (),
        common: Common | None = None,
    ) -> None:
        self.guard, self.world = guard, world
        self.now = now
        """`world.now`, looked up once."""
        self.kinds = kinds
        """Of all its policies, outermost first."""
        self.common = common or Common()

    @property
    def hooks(self) -> tuple[GuardHook, ...]:
        """Empty: make no event."""
        return self.common.hooks

    def emit(self, event: GuardEvent) -> None:
        tell(self.common.hooks, event)

    def budget(self, wanted: Ratio | Budget | None = None) -> Budget:
        """The one budget of this guard's retries and hedges; a `Budget` in place of a ratio is shared with whoever else
        has it. The outermost policy with a `budget` has decided before any is bound, so that all get the same one.

        Each call is deposited once: by retry, or by hedge in a guard without retry (`"retry" not in kinds`).
        """
        common = self.common
        if common.budget is None:
            common.decide(wanted, self.world)
        assert common.budget is not None
        return common.budget


class Site(Value):
    """The function around which a pipeline is built; without a signature it is `guard.enter`."""

    name: str
    signature: Signature | None = None
    is_async: bool = True
    idempotent: bool = False
    """The function was marked with `@idempotent`."""

    def key(self, template: str | Callable[..., Hashable]) -> Key:
        """ "{user}" → a function of (args, kwargs). Raises ConfigError when there is no such parameter."""
        return compile_key(template, self.signature, self.name)

    def place(self, template: str | Callable[..., Hashable]) -> int:
        """Where in `args` the whole key is when that is long enough: quicker than to ask `key`."""
        return place_of(template, self.signature)


class Gate(Protocol):
    """A layer's part in `guard.enter(…)`: admission only. What `acquire` returned goes to `release`, exactly once."""

    async def acquire(self, kwargs: Kwargs) -> Any:
        """Raises Rejected. Cancelled, it holds nothing."""
        ...

    def acquire_sync(self, kwargs: Kwargs) -> Any: ...

    def release(self, held: Any, error: BaseException | None) -> BaseException | None:
        """Never waits. `error` is what the block raised; an exception that is returned is raised in its stead."""
        ...


class Layer:
    """A policy at work in one guard. Subclasses override what they need; the rest passes through."""

    kind: ClassVar[str] = ""

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        return call

    def around_sync(self, call: Call, site: Site) -> Call:
        return call

    def gate(self, site: Site) -> Gate | None:
        """None: this policy does not take part in admission."""
        return None

    def adopt(self, old: Layer) -> None:
        """Take over the state of the layer before a reload."""

    def dump(self, now: float) -> Memory | None:
        """What the process that comes after this one shall know; moments as seconds from `now`."""
        return None

    def load(self, memory: Memory, then: float) -> None:
        """What a process before has dumped: its moments count from `then`, on this one's clock. What happened here
        already is kept. Raises ValueError, TypeError or KeyError for facts that it does not understand."""

    def statistics(self) -> Statistics:
        """Counters and gauges by name; the names of counters end in what was counted (`rejected`, `retried`)."""
        return {}

    def close(self) -> None:
        """The guard dropped this layer: stop what runs in the background. What was adopted goes on."""


class Policy(Protocol):
    """A frozen value, equal to another one that says the same."""

    kind: ClassVar[str]

    def bind(self, binding: Binding) -> Layer: ...

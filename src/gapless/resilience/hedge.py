"""hedge(…): when a call takes longer than nearly all others, ask once more and take the answer that comes first.

    hedge(after="p95")              # slower than 95 % of the calls lately: at most 5 % more load
    hedge(after=0.05, share=0.02)   # after 50 ms, for at most 2 % of the calls

Only where asking twice is safe. The first attempt runs in the caller's own task, and only a second one costs a task:
most calls pay for a timer that never rings. Whoever loses is cancelled and waited for, so that nothing goes on behind
the caller's back. An attempt that fails while another one runs waits for that one's answer; one that fails alone fails
at once: to ask again then is `retry`'s business. (Dean and Barroso, "The Tail at Scale", CACM 56/2, 2013.)
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Hashable
from contextvars import copy_context
from threading import get_ident
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience import deadline
from gapless.resilience.budget import Budget, Ratio
from gapless.resilience.hedge_delay import EVERY, Fixed, Quantile
from gapless.resilience.hedge_race import Race
from gapless.resilience.hedge_timer import RACE, TASK, Entry, Timer
from gapless.resilience.memory import Memory, number
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Kwargs, Layer, Site, Statistics

KEY_NAME = "idempotency_key"
"""A parameter of this name makes a call safe to repeat."""
BURST = 10.0
"""Hedges that the share may save up: the calls of one pause of the other side."""

_QUANTILE = r"p(\d{1,2}(?:\.\d+)?)"


class Hedge(Value):
    """See `hedge`."""

    kind: ClassVar[str] = "hedge"
    quantile: float
    """0: after a fixed time."""
    after_s: float
    max: int
    share: float
    budget: Ratio | Budget | None
    idempotent: bool
    key: str | Callable[..., Hashable] | None

    def bind(self, binding: Binding) -> HedgeLayer:
        return HedgeLayer(self, binding)


def hedge(
    after: str | float = "p95",
    *,
    max: int = 1,  # noqa: A002 - as in adaptive(max=…)
    share: float | None = None,
    budget: Ratio | Budget | None = None,
    idempotent: bool = False,
    key: str | Callable[..., Hashable] | None = None,
) -> Hedge:
    """Start another attempt (up to `max`) `after` seconds, or a quantile of late ("p95"), without an answer.

    `share`: hedges per call, at most (that of "p95" is 0.05); `budget`: shared with retry, as there. Only where asking
    twice is safe: `idempotent=True`, the function is marked `@idempotent`, has a parameter `idempotency_key`, or `key`
    (a template such as "{order_id}", or a function) gives a key for these arguments. Async only. Raises ConfigError.
    """
    found = re.fullmatch(_QUANTILE, after) if isinstance(after, str) else None
    quantile = float(found[1]) / 100 if found else 0.0
    if (found and not quantile) or (not found and (isinstance(after, str) or not after > 0)):
        raise ConfigError(f"hedge(after={after!r}) is no time", 'Give seconds above 0, or a quantile such as "p95".')
    wanted = share if share is not None else (1.0 - quantile if found else 0.05)
    if max < 1 or not 0 < wanted <= 1:
        raise ConfigError(f"hedge(max={max}, share={share}) starts none", "max >= 1; share in (0, 1].")
    return Hedge(
        quantile=quantile,
        after_s=0.0 if isinstance(after, str) else float(after),
        max=max,
        share=wanted,
        budget=budget,
        idempotent=idempotent,
        key=key,
    )


class HedgeState:
    """What is learnt and counted; it outlives a reload."""

    __slots__ = ("cap", "delay", "hedged", "spared", "won")

    def __init__(self, delay: Quantile | Fixed, cap: Budget) -> None:
        self.delay = delay
        self.cap = cap
        """The policy's own share, apart from the budget that it has in common with retry."""
        self.hedged = self.won = self.spared = 0


class HedgeLayer(Layer):
    kind = "hedge"

    def __init__(self, policy: Hedge, binding: Binding) -> None:
        self.policy, self.binding = policy, binding
        cap = Budget(Ratio(policy.share, 0.0, BURST), binding.world)
        self.state = HedgeState(Quantile(policy.quantile) if policy.quantile else Fixed(policy.after_s), cap)
        self.budget = binding.budget(policy.budget)

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        cap, delay, deposit = self.state.cap, self.state.delay, self.budget
        note, alone = delay.fresh.append, self._alone(call)
        if "retry" in self.binding.kinds:  # it deposits
            deposit = Budget(Ratio(), self.binding.world)
        may, lost, now, ends = self._may(site), self._lost, self.binding.now, deadline.current.get
        here, thread, task_of, context = self._timers(call), get_ident, asyncio.current_task, copy_context
        timer = Timer(self.binding.world, delay)  # of the loop that called last: nearly always the only one

        async def hedged(args: Args, kwargs: Kwargs) -> Any:
            nonlocal timer
            cap.calls += 1
            deposit.calls += 1
            began, end = now(), ends()
            due = began + delay.value_s
            if due >= end or (may is not None and not may(args, kwargs)):
                return await alone(args, kwargs)
            mine = timer
            if mine.thread != thread() or (task := task_of(mine.loop)) is None:
                mine = timer = here()
                task = mine.task()
            entry: Entry = [due, task, task.cancelling(), began, end, args, kwargs, context(), None]
            waiting, token = mine.waiting, id(entry)
            waiting[token] = entry
            if due < mine.armed_at:
                mine.arm(due)
            try:
                result = await call(args, kwargs)
            except BaseException as error:  # noqa: BLE001 - `lost` raises it again, unless a hedge has an answer
                waiting.pop(token, None)
                return await lost(entry, error)
            waiting.pop(token, None)
            if entry[RACE] is not None:
                return await entry[RACE].answered(result)
            note(now() - began)  # the timer takes it in
            return result

        return hedged

    def _alone(self, call: AsyncCall) -> AsyncCall:
        """Without a hedge: nothing is known yet, the deadline comes first, or asking twice is not safe."""
        delay, now = self.state.delay, self.binding.now

        async def alone(args: Args, kwargs: Kwargs) -> Any:
            began = now()
            result = await call(args, kwargs)
            delay.fresh.append(now() - began)
            if len(delay.fresh) >= EVERY:
                delay.learn()
            return result

        return alone

    async def _lost(self, entry: Entry, error: BaseException) -> Any:
        """The first attempt has no answer."""
        race: Race | None = entry[RACE]
        if race is not None:
            return await race.failed(error)
        if isinstance(error, asyncio.CancelledError):
            self.learn_from_cut()
        raise error

    def _timers(self, call: AsyncCall) -> Callable[[], Timer]:
        """The timer of the running loop."""
        timers: WeakKeyDictionary[asyncio.AbstractEventLoop, Timer] = WeakKeyDictionary()

        def race(entry: Entry) -> Race:
            found = Race(self, call, *entry[TASK:RACE])
            found.hedge()
            return found

        def here() -> Timer:
            loop = asyncio.get_running_loop()
            if loop not in timers:
                timers[loop] = Timer(self.binding.world, self.state.delay, race, loop)
            timers[loop].thread = get_ident()
            return timers[loop]

        return here

    def around_sync(self, call: Call, site: Site) -> Call:
        raise ConfigError(
            f"guard {self.binding.guard!r} cannot hedge {site.name}: a blocked thread cannot be cancelled",
            "Make it async def, or leave hedge out for sync functions.",
        )

    def adopt(self, old: Layer) -> None:
        """Counts and what is known of latencies stay; a new quantile is learnt anew."""
        if not isinstance(old, HedgeLayer):
            return
        state = old.state
        if (old.policy.quantile, old.policy.after_s) != (self.policy.quantile, self.policy.after_s):
            state.delay = self.state.delay
        state.cap.ratio = self.state.cap.ratio
        self.state = state

    def dump(self, now: float) -> Memory:
        delay = self.state.delay
        known = {"latency": delay.dump()} if isinstance(delay, Quantile) else {}
        return Memory(form="hedge", facts={"share": self.state.cap.left(), **known})

    def load(self, memory: Memory, then: float) -> None:
        delay = self.state.delay
        if isinstance(delay, Quantile) and "latency" in memory.facts:
            delay.load(memory.facts["latency"])
        self.state.cap.inherit(number(memory.facts["share"], 0.0), then)

    def allowed(self) -> bool:
        """Take from both budgets; False when one of them has nothing left."""
        state = self.state
        if not state.cap.withdraw():
            state.spared += 1
            return False
        if not self.budget.withdraw():
            state.cap.refund()
            state.spared += 1
            return False
        state.hedged += 1
        return True

    def learn(self, took_s: float) -> None:
        """Of a first attempt; infinite when it was ended before its time."""
        self.state.delay.fresh.append(took_s)

    def learn_from_cut(self) -> None:
        """A first attempt was cancelled. If that was the deadline's doing, it was too slow."""
        if deadline.cut(self.binding.now()):
            self.learn(math.inf)

    def statistics(self) -> Statistics:
        state = self.state
        return {
            "hedged": state.hedged,
            "won": state.won,
            "spared": state.spared,
            "after_s": state.delay.value_s,
        }

    def _may(self, site: Site) -> Callable[[Args, Kwargs], Any] | None:
        """Is a second attempt with these arguments safe? None: with all."""
        if self.policy.idempotent or site.idempotent:
            return None
        if self.policy.key is not None:
            return site.key(self.policy.key)
        if site.signature is not None and KEY_NAME in site.signature.parameters:
            return site.key(f"{{{KEY_NAME}}}")
        raise ConfigError(
            f"guard {self.binding.guard!r} would hedge {site.name}, whose effect might then happen twice",
            f"Mark it @idempotent, give it an {KEY_NAME}, or use hedge(idempotent=True) or hedge(key=…).",
        )

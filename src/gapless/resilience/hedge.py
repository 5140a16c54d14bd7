"""hedge(…): when a call takes longer than nearly all others, ask once more and take the answer that comes first.

    hedge(after="p95")              # slower than 95 % of the calls lately: at most 5 % more load
    hedge(after=0.05, share=0.02)   # after 50 ms, for at most 2 % of the calls

Only where asking twice is safe. The first attempt runs in the caller's own task, and only a second one costs a task:
most calls pay for a timer that never rings. Whoever loses is cancelled and waited for, so that nothing goes on behind
the caller's back. An attempt that fails while another one runs waits for that one's answer; one that fails alone fails
at once: to ask again then is `retry`'s business. (Dean and Barroso, "The Tail at Scale", CACM 56/2, 2013.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, ClassVar

from gapless.core.errors import ConfigError
from gapless.resilience import deadline
from gapless.resilience.budget import Budget, Ratio
from gapless.resilience.hedge_delay import Quantile
from gapless.resilience.hedge_race import Race
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Kwargs, Layer, Site, Statistics

KEY_NAME = "idempotency_key"
"""A parameter of this name makes a call safe to repeat."""
BURST = 10.0
"""Hedges that the share may save up: the calls of one pause of the other side."""

_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
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
    found = _QUANTILE.fullmatch(after) if isinstance(after, str) else None
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

    __slots__ = ("cap", "hedged", "quantile", "spared", "won")

    def __init__(self, quantile: Quantile | None, cap: Budget) -> None:
        self.quantile = quantile
        self.cap = cap
        """The policy's own share, apart from the budget that it has in common with retry."""
        self.hedged = self.won = self.spared = 0


class HedgeLayer(Layer):
    kind = "hedge"

    def __init__(self, policy: Hedge, binding: Binding) -> None:
        self.policy, self.binding = policy, binding
        cap = Budget(Ratio(policy.share, 0.0, BURST), binding.world)
        self.state = HedgeState(Quantile(policy.quantile) if policy.quantile else None, cap)
        self.budget = binding.budget(policy.budget)

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        cap, budget, quantile, now = self.state.cap, self.budget, self.state.quantile, self.binding.now
        may, ends, fixed_s, most = self._may(site), deadline.current.get, self.policy.after_s, self.policy.max
        deposits = "retry" not in self.binding.kinds

        async def hedged(args: Args, kwargs: Kwargs) -> Any:
            cap.calls += 1
            if deposits:
                budget.calls += 1
            began, end = now(), ends()
            delay_s = fixed_s if quantile is None else quantile.value_s
            if began + delay_s < end and may(args, kwargs):
                race = Race(self, call, args, kwargs, end)
                return await race.run(delay_s, most, copy_context())
            result = await call(args, kwargs)
            if quantile is not None:
                quantile.record(now() - began)
            return result

        return hedged

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
        if old.policy.quantile != self.policy.quantile:
            state.quantile = self.state.quantile
        state.cap.ratio = self.state.cap.ratio
        self.state = state

    def allowed(self) -> bool:
        """Take from both budgets; False when one of them has nothing left."""
        if not self.state.cap.withdraw():
            return False
        if not self.budget.withdraw():
            self.state.cap.refund()
            return False
        return True

    def statistics(self) -> Statistics:
        state = self.state
        return {
            "hedged": state.hedged,
            "won": state.won,
            "spared": state.spared,
            "after_s": self.policy.after_s if state.quantile is None else state.quantile.value_s,
        }

    def _may(self, site: Site) -> Callable[[Args, Kwargs], Any]:
        """Is a second attempt with these arguments safe?"""
        if self.policy.idempotent or site.idempotent:
            return lambda args, kwargs: True
        if self.policy.key is not None:
            return site.key(self.policy.key)
        if site.signature is not None and KEY_NAME in site.signature.parameters:
            return site.key(f"{{{KEY_NAME}}}")
        raise ConfigError(
            f"guard {self.binding.guard!r} would hedge {site.name}, whose effect might then happen twice",
            f"Mark it @idempotent, give it an {KEY_NAME}, or use hedge(idempotent=True) or hedge(key=…).",
        )

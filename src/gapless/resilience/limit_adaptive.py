"""How many calls at once are right, learnt from how long they take: a gradient on latency.

A side that is not full answers in its own time, T₀. When it is full, more calls at once only make each take longer.
So once per look (a tenth of a second, or as long as a call takes), with T the mean time of the calls that ended since:

    g      = min(1, max(1/2, tolerance * T₀ / T))        the gradient: below 1 when calls take longer than they should
    limit += smoothing * (limit * g + sqrt(limit) - limit)

It rests where T = tolerance * T₀ / (1 - 1/sqrt(limit)): at 100 calls and a tolerance of 1.25 each takes 1.4 times what
it must, and the side is never idle. sqrt(limit) is the queue that it allows itself. The law is that of Netflix
concurrency-limits' Gradient2 and of Envoy's adaptive concurrency filter; until the first g < 1 the limit doubles at
each look, as in TCP's slow start (RFC 5681).

T₀ is the least mean seen. A least value that was measured when the side was already full, or that is no longer true,
would be kept for ever. So now and then the limit is halved for two looks, and what the second one measures is the new
T₀ (as Envoy does; BBR calls it ProbeRTT): after one second first, after twice as long each time that T₀ was right,
every ten seconds in the end. A limit that the law itself has halved without bringing T down was such a probe, too.

A limit that is not half used says nothing about a larger one: it is not raised then (Little's law: calls at once = sum
of their times / time).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience.memory import number

GOLDEN = 0.6180339887498949


class Adaptive(Value):
    """`initial` 0: the smaller of 20 and `max`."""

    max: int
    min: int = 1
    initial: int = 0
    tolerance: float = 1.25
    smoothing: float = 0.5
    look_s: float = 0.1
    least_samples: int = 10
    probe_s: float = 10.0
    first_probe_s: float = 1.0

    @property
    def first(self) -> int:
        return max(self.min, min(self.initial or 20, self.max))


def adaptive(max: int, min: int = 1, *, initial: int = 0, tolerance: float = 1.25) -> Adaptive:  # noqa: A002
    """Between `min` and `max` calls at once, as many as the other side answers in about its own time.

    `tolerance`: how much longer than alone a call may take before there are too many. Raises ConfigError.
    """
    if not 1 <= min <= max or tolerance < 1:
        raise ConfigError(
            f"adaptive(max={max}, min={min}, tolerance={tolerance}) cannot adapt", "1 <= min <= max, tolerance >= 1."
        )
    return Adaptive(max=max, min=min, initial=initial, tolerance=tolerance)


class Gradient:
    """The learner. `took_s` and `samples` are summed up by the hot path; `look` is called when `look_at` has come."""

    __slots__ = (
        "_drained",
        "_highest",
        "_probe_at",
        "_probe_s",
        "_probes",
        "_resume",
        "_since",
        "_starting",
        "limit",
        "look_at",
        "own_s",
        "rules",
        "samples",
        "took_s",
    )

    def __init__(self, rules: Adaptive, now: float) -> None:
        self.rules = rules
        self.limit = float(rules.first)
        self.own_s = math.inf
        """T₀, the time of a call when the other side is not full."""
        self.took_s = 0.0
        self.samples = 0
        self.look_at = now + rules.look_s
        self._since = now
        self._starting = True
        self._probes = 0
        self._probe_s = rules.first_probe_s
        self._probe_at = now + rules.first_probe_s
        self._resume = 0.0
        """Above 0: a probe is under way, and this limit comes back after it."""
        self._drained = False
        self._highest = 0.0
        """The limit from which it came down since calls take too long; 0 when they do not."""

    def look(self, now: float) -> float:
        """Learn from the calls since the last look; returns the limit. Too few calls: it waits for more."""
        if self.samples < self.rules.least_samples and now - self._since < 10 * self.rules.look_s:
            return self.limit
        if not self.samples:
            return self._next(now, self.rules.look_s)
        mean_s = self.took_s / self.samples
        at_once = self.took_s / max(now - self._since, 1e-9)
        if self._resume:
            self._probed(now, mean_s)
        elif now >= self._probe_at and at_once >= self.limit / 2 and self.limit > self.rules.min:
            self._resume, self.limit, self._drained = self.limit, self._within(self.limit / 2), False
        else:
            self._learn(now, mean_s, used=at_once >= self.limit / 2)
        return self._next(now, max(self.rules.look_s, min(mean_s, 10.0)))

    def adjust(self, rules: Adaptive) -> None:
        """New rules for the same learner (after a reload)."""
        self.rules = rules
        self.limit = self._within(self.limit)
        self._resume = self._resume and self._within(self._resume)

    def dump(self) -> dict[str, float]:
        """For another process."""
        own_s = self.own_s if self.own_s < math.inf else 0.0
        limit = self._resume or self.limit
        return {"limit": limit, "own_s": own_s, "probe_s": self._probe_s, "starting": float(self._starting)}

    def load(self, facts: Mapping[str, Any], now: float) -> None:
        """What another process has learnt. Raises ValueError or KeyError."""
        limit, own_s, starting = (number(facts[name], 0.0) for name in ("limit", "own_s", "starting"))
        self._probe_s = min(number(facts["probe_s"], self.rules.first_probe_s), self.rules.probe_s)
        self._probe_at = now + self._probe_s
        self.limit, self._resume = self._within(limit), 0.0
        self.own_s, self._starting = own_s or math.inf, bool(starting)

    def _learn(self, now: float, mean_s: float, used: bool) -> None:
        self.own_s = min(self.own_s, mean_s)
        if not used:  # nobody waits for anybody, so that this is its own time, also when it has become longer
            self.own_s += 0.1 * (mean_s - self.own_s)
        gradient = min(1.0, max(0.5, self.rules.tolerance * self.own_s / mean_s)) if mean_s > 0 else 1.0
        self._starting = self._starting and gradient == 1.0
        self._highest = max(self._highest, self.limit) if gradient < 1.0 else 0.0
        if self.limit <= self._highest / 2:
            self._rebase(now, mean_s)
        self._move(gradient, used)

    def _move(self, gradient: float, used: bool) -> None:
        wanted = self.limit * gradient + math.sqrt(self.limit)
        moved = 2 * self.limit if self._starting else self.limit + self.rules.smoothing * (wanted - self.limit)
        if used or moved < self.limit:
            self.limit = self._within(moved)

    def _probed(self, now: float, mean_s: float) -> None:
        if not self._drained:
            self._drained = True  # these calls began among too many; the next ones count
            return
        self.limit, self._resume = self._resume, 0.0
        self._rebase(now, mean_s)

    def _rebase(self, now: float, own_s: float) -> None:
        """A new T₀. If it was wrong, it may still be: the next probe comes soon."""
        right = abs(own_s - self.own_s) <= 0.1 * self.own_s
        self._probe_s = min(2 * self._probe_s, self.rules.probe_s) if right else self.rules.first_probe_s
        self._probes += 1
        self._probe_at = now + self._probe_s * (0.75 + 0.5 * (self._probes * GOLDEN % 1.0))
        self.own_s, self._highest = own_s, 0.0

    def _next(self, now: float, after_s: float) -> float:
        self.took_s, self.samples, self._since = 0.0, 0, now
        self.look_at = now + after_s
        return self.limit

    def _within(self, limit: float) -> float:
        return min(max(limit, float(self.rules.min)), float(self.rules.max))

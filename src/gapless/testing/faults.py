"""fault(…): a policy that makes things go wrong, by share and by seed.

    guard("payments", deadline(2.0), retry(...), breaker(), fault(errors=0.1, slow=0.05, latency=1.5, seed=7))

Put it last (innermost): what lies further out then meets errors and latencies as those of the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from gapless.core.errors import ConfigError
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Kwargs, Layer, Site, Statistics
from gapless.testing.world import Dice

TEXT = "a fault that was asked for"

Error = type[BaseException] | BaseException | Callable[[], BaseException]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """See `fault`."""

    kind: ClassVar[str] = "fault"
    errors: float
    lost: float
    slow: float
    latency: tuple[float, float]
    error: Error
    seed: int

    def bind(self, binding: Binding) -> FaultLayer:
        return FaultLayer(self, binding)


def fault(
    *,
    errors: float = 0.0,
    lost: float = 0.0,
    slow: float = 0.0,
    latency: float | tuple[float, float] = 0.0,
    error: Error = ConnectionError,
    seed: int = 0,
) -> Fault:
    """Shares of the calls, each drawn by itself: `errors` raise `error` instead of being made; `lost` are made, and
    their answer is lost by `error`; `slow` wait `latency` seconds before (a pair: uniformly between).

    `slow` left out while `latency` is given means all. The same seed gives the same faults to the same calls in order.
    Raises ConfigError.
    """
    shares = {"errors": errors, "lost": lost, "slow": slow}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"fault: {name}={value} is no share", "Give a number from 0 to 1.")
    first, last = latency if isinstance(latency, tuple) else (latency, latency)
    if not 0 <= first <= last:
        raise ConfigError(f"fault: latency={latency} cannot be waited", "Give seconds, or a pair (least, most).")
    return Fault(errors=errors, lost=lost, slow=slow or float(last > 0), latency=(first, last), error=error, seed=seed)


class FaultLayer(Layer):
    kind = "fault"

    def __init__(self, policy: Fault, binding: Binding) -> None:
        self.policy = policy
        self._world = binding.world
        self._dice = Dice(policy.seed)
        self.failed = self.lost = self.delayed = 0

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        async def faulty(args: Args, kwargs: Kwargs) -> Any:
            wait_s, fails, loses = self._fate()
            if wait_s:
                await self._world.sleep(wait_s)
            if fails:
                raise self._error()
            result = await call(args, kwargs)
            if loses:
                raise self._error()
            return result

        return faulty

    def around_sync(self, call: Call, site: Site) -> Call:
        def faulty(args: Args, kwargs: Kwargs) -> Any:
            wait_s, fails, loses = self._fate()
            if wait_s:
                self._world.pause(wait_s)
            if fails:
                raise self._error()
            result = call(args, kwargs)
            if loses:
                raise self._error()
            return result

        return faulty

    def adopt(self, old: Layer) -> None:
        """Counters go on; the dice begin anew where the seed is another."""
        assert isinstance(old, FaultLayer)
        self.failed, self.lost, self.delayed = old.failed, old.lost, old.delayed
        if old.policy.seed == self.policy.seed:
            self._dice = old._dice  # noqa: SLF001

    def statistics(self) -> Statistics:
        return {"failed": self.failed, "lost": self.lost, "delayed": self.delayed}

    def _draw(self) -> float:
        return (self._dice.roll() >> 11) / (1 << 53)

    def _fate(self) -> tuple[float, bool, bool]:
        """(seconds to wait, fails, loses its answer). All dice fall for each call, so that a greater share hits those
        whom the smaller one hit, and some more."""
        policy = self.policy
        slow, place, fails, loses = (self._draw() for _ in range(4))
        delayed, failed = slow < policy.slow, fails < policy.errors
        lost = not failed and loses < policy.lost
        self.delayed += delayed
        self.failed += failed
        self.lost += lost
        first, last = policy.latency
        return (first + place * (last - first)) if delayed else 0.0, failed, lost

    def _error(self) -> BaseException:
        error = self.policy.error
        if isinstance(error, BaseException):
            return error
        return error(TEXT) if isinstance(error, type) else error()

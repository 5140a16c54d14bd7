"""One deadline per request: the moment after which nobody waits for the answer any more.

It travels between services as the remaining milliseconds in `x-gapless-deadline-ms` (clocks of machines differ,
durations do not), and inside one as a contextvar, so that whatever is called on behalf of a request inherits it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from gapless.resilience.errors import DeadlineExceeded

if TYPE_CHECKING:
    from gapless.core.ports import World
    from gapless.resilience.policy import Binding

HEADER = b"x-gapless-deadline-ms"
GRPC_HEADER = b"grpc-timeout"
GRPC_UNITS = {b"n": 1e-9, b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"M": 60.0, b"H": 3600.0}
GRPC_DIGITS = 8
"""By the gRPC protocol over HTTP/2."""
LONGEST_DIGITS = 12
"""More digits than thirty years of milliseconds: not a duration that anybody means."""

current: ContextVar[float] = ContextVar("gapless_deadline", default=math.inf)
"""The present request's deadline on `World.now()`'s clock; infinite outside of one."""


def parse(value: bytes | None) -> float:
    """Seconds in a header's value; infinite when it is absent or not a whole number, since a caller's bad header must
    not fail its request."""
    if value is None or not value.isdigit() or len(value) > LONGEST_DIGITS:
        return math.inf
    return int(value) / 1000


def begin(now: float, value: bytes | None, own_s: float) -> float:
    """The deadline of a request that arrives now: the caller's, but never later than the service's own limit."""
    return now + min(parse(value), own_s)


def remaining(now: float) -> float:
    """Seconds until the present request's deadline; below zero when it is over."""
    return current.get() - now


def headers(now: float) -> dict[str, str]:
    """For a call that goes out now: what is left of the time, if there is a deadline at all."""
    left = current.get() - now
    return {} if left == math.inf else {HEADER.decode(): render(left).decode()}


def metadata(now: float) -> list[tuple[str, str]]:
    """The same for gRPC clients that do not set a timeout of their own."""
    left = current.get() - now
    return [] if left == math.inf else [(GRPC_HEADER.decode(), render_grpc(left).decode())]


def from_headers(given: Mapping[bytes, bytes]) -> float:
    """Seconds that a caller leaves, by either header; infinite when there is none that can be read."""
    return min(parse(given.get(HEADER)), parse_grpc(given.get(GRPC_HEADER)))


def parse_grpc(value: bytes | None) -> float:
    """Seconds in a `grpc-timeout`: at most eight digits and a unit out of H M S m u n."""
    if value is None or not 2 <= len(value) <= GRPC_DIGITS + 1 or not value[:-1].isdigit():
        return math.inf
    unit = GRPC_UNITS.get(value[-1:])
    return math.inf if unit is None else int(value[:-1]) * unit


def render_grpc(remaining_s: float) -> bytes:
    """The finest unit whose number has no more than eight digits, rounded down."""
    for name, unit in sorted(GRPC_UNITS.items(), key=lambda each: each[1]):
        number = int(max(remaining_s, 0.0) / unit)
        if number < 10**GRPC_DIGITS:
            return b"%d%s" % (number, name)
    return b"99999999H"


def cut(now: float) -> bool:
    """Is a cancellation that is seen now the deadline's doing, rather than a client's own?"""
    return now >= current.get()


def check(binding: Binding, policy: str) -> None:
    """Nothing starts at or after the deadline: raises DeadlineExceeded on behalf of `policy`."""
    if binding.now() >= current.get():
        raise DeadlineExceeded(
            f"{binding.guard}: the deadline passed before {policy} let the call begin",
            policy=policy,
            guard=binding.guard,
            started=False,
        )


def render(remaining_s: float) -> bytes:
    """The header's value: rounded down, because a callee must not believe that there is more time than there is."""
    return b"%d" % max(int(remaining_s * 1000), 0)


class within:  # noqa: N801 - reads as a statement, like asyncio.timeout
    """`async with within(world, 2.0):` raises TimeoutError when the block takes longer, by the world's clock.

    An infinite limit costs nothing. It is `asyncio.timeout` with the timer moved to the World, so that cancellation
    from outside is told apart from the limit as there.
    """

    def __init__(self, world: World, limit_s: float) -> None:
        self._world = world
        self._limit_s = limit_s
        self._timeout = asyncio.timeout(None)
        self._cancel: Callable[[], None] | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        if self._limit_s < math.inf:
            self._cancel = self._world.after(max(self._limit_s, 0.0), self._expire)

    def _expire(self) -> None:
        self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cancel is not None:
            self._cancel()
        await self._timeout.__aexit__(kind, error, trace)

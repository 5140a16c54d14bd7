"""The numbers of a pool, and when a connection counts as broken."""

from __future__ import annotations

from dataclasses import dataclass

CONNECT_S = 10.0
"""For opening a connection: longer than three retransmitted SYNs (1 + 2 + 4 s)."""
CHECK_S = 2.0
"""For a check: longer than one lost packet, shorter than anybody waits."""
CLOSE_S = 2.0
"""For closing politely; its slot is not free before, so that the server never sees more than `max_size`."""
SHORTEST_TICK_S = 0.01


def broken_by(connection: object, error: BaseException | None) -> bool:
    """Is a connection that comes back with this error unfit for the next one? After an error of the transport, and
    after a block that was cut off in the middle of a conversation (cancelled or out of time), it is."""
    return error is not None and (
        isinstance(error, OSError | EOFError | TimeoutError) or not isinstance(error, Exception)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Every number of a pool. Infinite: never."""

    max_size: int
    min_size: int = 0
    acquire_deadline_s: float = 5.0
    """A borrower waits no longer, and not beyond its own inherited deadline."""
    idle_timeout_s: float = 300.0
    """Below the 350 s after which common load balancers and NATs forget a silent connection."""
    health_check_every_s: float = 30.0
    leak_after_s: float = 60.0
    """Longer than any request lives: what is out for so long has been forgotten."""
    connect_s: float = CONNECT_S
    check_s: float = CHECK_S
    close_s: float = CLOSE_S

    def tick_s(self) -> float:
        """Four looks within the shortest interval: nothing is found more than a quarter of it late."""
        return max(min(self.idle_timeout_s, self.health_check_every_s, self.leak_after_s) / 4, SHORTEST_TICK_S)


async def let_go(connection: object) -> None:
    """Closes what needs no closing."""

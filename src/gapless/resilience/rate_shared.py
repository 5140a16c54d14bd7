"""How processes share a rate: `exact` or `leased`."""

from __future__ import annotations

from typing import Any

from gapless.core.errors import ConfigError
from gapless.core.value import Value

PATIENCE_S = 0.05
"""An exact decision that takes longer is made locally."""
LEASE_S = 0.1
"""A lease is what all processes together may use in this time, in equal parts: longer is fewer round trips, shorter
loses less with a killed process."""
PREFIX = "gapless"


class Shared(Value):
    """`client`: redis-py's `Redis`, `asyncio.Redis`, or a URL."""

    client: Any
    leased: bool = False
    patience_s: float = PATIENCE_S
    lease_s: float = LEASE_S
    processes: int = 1
    prefix: str = PREFIX


def exact(client: Any, *, patience: float = PATIENCE_S, processes: int = 1, prefix: str = PREFIX) -> Shared:
    """Each call asks Redis, in one round trip. When there is no answer within `patience` seconds, this process goes on
    with its part of the rate, until Redis is back. `processes`: how many share it, until Redis has told."""
    _check(client, patience=patience, processes=processes)
    return Shared(client=client, patience_s=patience, processes=processes, prefix=prefix)


def leased(client: Any, *, lease: float = LEASE_S, processes: int = 1, prefix: str = PREFIX) -> Shared:
    """Calls are decided locally, from a part of the rate that is taken in advance and refilled in the background. What
    is taken is never more than the rate allows; a process that is killed takes at most one lease with it."""
    _check(client, lease=lease, processes=processes)
    return Shared(client=client, leased=True, lease_s=lease, processes=processes, prefix=prefix)


def _check(client: Any, **numbers: float) -> None:
    if client is None:
        raise ConfigError("rate: there is no Redis to share it on", "Give a client of redis-py, or redis://host:port.")
    for name, number in numbers.items():
        if number <= 0:
            raise ConfigError(f"rate: {name}={number} is not above 0", "Leave it out for the default.")

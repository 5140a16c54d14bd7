"""What the control plane needs of a gateway: a data plane that it can start and stop, and its figures."""

from __future__ import annotations

from typing import Protocol

from gapless.core.ports import Metrics, Traffic


class Gateway(Traffic, Metrics, Protocol):
    """`pid` is 0 while it does not run; `restarts` counts those that nobody asked for."""

    @property
    def pid(self) -> int: ...
    @property
    def restarts(self) -> int: ...

    @property
    def settled(self) -> bool:
        """It runs and obeys the newest table."""
        ...

    async def start(self) -> None:
        """Start it, or adopt the one that an earlier control plane left. Raises GatewayMissing, PortTaken."""
        ...

    async def adopt(self) -> None:
        """Take charge of the one that an earlier control plane left, if there is one, only to stop it."""
        ...

    async def stop(self, drain_s: float) -> None:
        """Let requests finish within the limit and end it; cancelled: at once."""
        ...

    async def detach(self) -> None:
        """Leave it running."""
        ...

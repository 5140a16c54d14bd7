"""What the control plane needs of a gateway: a data plane that it can start and stop, and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from gapless.core.ports import Metrics, Traffic
from gapless.observe.metrics import Sample
from gapless.observe.trace.spans import Span


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

    def samples(self) -> list[Sample]:
        """What it has counted since this control plane listens to it."""
        ...

    def spans(self) -> list[Span]:
        """Its part of the requests that are recorded, since the last time."""
        ...

    async def start(self) -> None:
        """Start it, or adopt the one that an earlier control plane left. Raises GatewayMissing, PortTaken."""
        ...

    async def renew(self, binary: Path | None = None) -> None:
        """Hot restart, with another binary if one is given. Raises GaplessError; then it goes on as it is."""
        ...

    async def details(self) -> dict[str, Any]:
        """What runs, as plain data: `pid`, `version`, `epoch`, `leaving`, …"""
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

"""The clients of a service: one per name and balancer, and open as long as the service is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapless.core.ports import World
    from gapless.discovery.directory import Directory
    from gapless.observe.metrics import Meter
    from gapless.service.client import Client


class Clients:
    """`directory` is asked for when the first client is made: a service without clients needs none."""

    def __init__(self, directory: Callable[[], Directory], world: World, meter: Meter, zone: str) -> None:
        self._directory = directory
        self._world = world
        self._meter = meter
        self._zone = zone
        self._made: dict[tuple[str, str], Client] = {}

    @property
    def names(self) -> frozenset[str]:
        """The services that are called."""
        return frozenset(name for name, _ in self._made)

    def get(self, name: str, balance: str) -> Client:
        """Raises UnknownName for a balancer that does not exist."""
        if (name, balance) not in self._made:
            from gapless.service.client import Client

            self._made[name, balance] = Client(
                name,
                directory=self._directory(),
                world=self._world,
                meter=self._meter,
                balance=balance,
                zone=self._zone,
            )
        return self._made[name, balance]

    async def close(self) -> None:
        for client in self._made.values():
            await client.aclose()

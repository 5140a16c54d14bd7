"""What one caller has seen of the instances of a service, and its choice among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gapless.core.model import Address, Endpoint
from gapless.core.ports import World
from gapless.discovery.balance import Load, Outcome, begun, ended, fresh, pick


class Loads:
    """Loads by address: an instance that comes back elsewhere is another one to its callers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._loads: dict[Address, Load] = {}

    def choose(self, endpoints: Sequence[Endpoint], tried: Collection[Address]) -> Endpoint | None:
        """The one to ask now; None when all have been tried. Draining ones only when there is nobody else."""
        untried = [endpoint for endpoint in endpoints if endpoint.address not in tried]
        fit = [endpoint for endpoint in untried if not endpoint.draining] or untried
        if not fit:
            return None
        now = self._world.now()
        loads = [self._seen(endpoint.address, now) for endpoint in fit]
        chosen = pick(loads, now, self._world.random(), self._world.random())
        self._loads[fit[chosen].address] = begun(loads[chosen], now)
        return fit[chosen]

    def ended(self, address: Address, took_s: float, outcome: Outcome) -> None:
        """Tell how the request to a chosen endpoint ended."""
        now = self._world.now()
        self._loads[address] = ended(self._seen(address, now), now, took_s, outcome)

    def _seen(self, address: Address, now: float) -> Load:
        load = self._loads.get(address)
        if load is None:
            load = self._loads[address] = fresh(now)
        return load

    def of(self, address: Address) -> Load | None:
        """What is known of an address."""
        return self._loads.get(address)

    def forget_but(self, known: Collection[Address]) -> None:
        """Drop what is known of addresses that no longer exist and that nobody waits for."""
        gone = [a for a, load in self._loads.items() if a not in known and not load.in_flight]
        for address in gone:
            del self._loads[address]

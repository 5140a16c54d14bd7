"""The parts of a control plane on one machine: SQLite, local processes, Envoy."""

from __future__ import annotations

from gapless.config import System
from gapless.control.plane import ControlPlane
from gapless.core.errors import ConfigError
from gapless.core.events import Events
from gapless.core.world import RealWorld
from gapless.store import open_store


async def compose(system: System, events: Events) -> ControlPlane:
    """Open the state directory, of which there is one owner. Raises StoreLocked, StoreBroken, ConfigError."""
    from gapless.fleet.local import LocalFleet
    from gapless.gateway.envoy import EnvoyGateway

    try:
        system.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the state directory {system.state} cannot be made: {error.strerror}", "Name another one by --state."
        ) from error
    world = RealWorld()
    store = await open_store(str(system.state / "store.db"), world)
    fleet = LocalFleet(system.state, world, events)
    gateway = EnvoyGateway(system.gateway.listen, system.state, world, system.gateway.envoy, events)
    return ControlPlane(system, store, fleet, gateway, world, events)

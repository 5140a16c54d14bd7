"""The parts of a control plane on one machine: SQLite or another store, local processes, Envoy."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gapless.config import System
from gapless.config.secret_references import Secrets, token_of
from gapless.config.vault import HttpVault
from gapless.control.plane import ControlPlane
from gapless.core.errors import ConfigError
from gapless.core.events import Events
from gapless.core.model import Door, Network
from gapless.core.ports import Signals, Store, World
from gapless.core.world import RealWorld
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Instance
from gapless.observe.prometheus import PrometheusSignals
from gapless.observe.recorder.recorder import Recorder
from gapless.observe.trace.settings import VARIABLE, render
from gapless.store import open_store

SERVER_PORT = 8300
"""Where Consul's servers meet each other; clients find it in the catalog, and nobody listens there."""


async def compose(
    system: System,
    events: Events,
    store: Store | None = None,
    control: Callable[[], dict[str, Any]] = dict,
) -> ControlPlane:
    """Open the state directory, of which there is one owner. `store`: instead of the one in that directory.
    Raises StoreLocked, StoreBroken, ConfigError, CertificateRefused."""
    from gapless.fleet.local import LocalFleet
    from gapless.gateway.envoy import EnvoyGateway
    from gapless.gateway.envoy.secrets import read_pair

    make_state(system.state)
    world = RealWorld()
    for certificate in system.gateway.certificates:
        read_pair(certificate, world.time())  # now, when nothing has begun that would be taken down again
    check_bind(system.network, world)
    door = await _door(system.gateway.xds, world)
    store = store or await open_store(system.store or str(system.state / "store.db"), world)
    fleet = LocalFleet(system.state, world, events, {VARIABLE: render(system.tracing)}, system.network)
    gateway = EnvoyGateway(system.gateway.entrance, system.state, world, system.gateway.envoy, events, door=door)
    catalog = _catalog(system, store, world)
    recorder, signals = _signals(system, world)
    return ControlPlane(
        system,
        store,
        fleet,
        gateway,
        world,
        events,
        control=control,
        catalog=catalog,
        recorder=recorder,
        signals=signals,
        queries=signals if isinstance(signals, PrometheusSignals) else None,
    )


async def _door(door: Door | None, world: World) -> Door | None:
    """With the token that its reference leads to. Raises ConfigError."""
    if door is None or not door.token:
        return door
    content = await Secrets(os.environ, HttpVault(os.environ), world).read(door.token)
    try:
        return replace(door, token=token_of(content))
    except ValueError as error:
        raise ConfigError(f"gateway.xds.token: {door.token}: {error}", "Put such a one there.") from error


def _signals(system: System, world: World) -> tuple[Recorder | None, Signals]:
    """Our own record of metrics, or the Prometheus that the file names."""
    if url := system.metrics.prometheus:
        return None, PrometheusSignals(url, world)
    recorder = Recorder(system.state / "metrics" / "recorded.db", world)
    return recorder, recorder


def _catalog(system: System, store: Store, world: World) -> Catalog | None:
    """The registry of the system, if it has one. Its instances are on this machine."""
    registry = system.registry
    if registry is None:
        return None
    itself = Instance(service="consul", id="consul", port=SERVER_PORT)
    name, address = registry.node, system.network.advertise
    return Catalog(store, world, name=name, address=address, datacenter=registry.datacenter, itself=itself)


def check_bind(network: Network, world: World) -> None:
    """Raises ConfigError when instances could not listen there."""
    try:
        world.free_port(network.bind)
    except OSError as error:
        raise ConfigError(
            f"network.bind: instances cannot listen on {network.bind}: {error.strerror}",
            "Give an address of this machine (`ip -brief address` lists them), or 0.0.0.0 with network.advertise.",
        ) from error


def make_state(state: Path) -> None:
    """Raises ConfigError."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the state directory {state} cannot be made: {error.strerror}", "Name another one by --state."
        ) from error

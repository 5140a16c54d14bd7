"""Registers this process's instances and finds others', by one API over every registry that Gapless knows.

    async with registry_at("http://127.0.0.1:8500") as registry:        # an agent: Consul's, or `gapless registry`
        await registry.register(Registration(service="orders", address="10.0.0.5", port=8000, version="1.4.0"))
        await registry.warn("orders-10.0.0.5-8000", "the cache is cold")
        for endpoint in await registry.list("stock"): ...
        async for endpoints in registry.watch("stock"): ...

Other addresses are those of stores (`gapless.store.open_store`): `memory:`, `sqlite:PATH`, `etcd://HOST:2379`. Then
this process is an agent itself, and what it registers hangs on a lease.

A keeper tells the registry that the instances live, and registers again what was lost, by whatever accident. A process
that dies is not found any more when its time to live is over, or as soon as somebody who calls it complains.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gapless.core.duration import format_duration
from gapless.discovery.catalog.values import Check, Definition, Instance, Status, Weights

if TYPE_CHECKING:
    from gapless.core.model import Endpoint
    from gapless.core.ports import World

TTL_S = 10.0
"""A process that died without a word is found for so long at most."""
BEATS = 3
"""In a time to live: two may be lost."""
DEREGISTER_S = 60.0
"""What is critical for so long is forgotten."""

AGENTS = {"http": "consul", "https": "consuls", "consul": "consul", "consuls": "consuls"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """An instance, as it wants to be found. Raises ValueError for one that nobody could find."""

    service: str
    address: str
    """Host name or IP address."""
    port: int
    id: str = ""
    """Unique on its machine; made of the rest when empty."""
    version: str = ""
    zone: str = ""
    weight: float = 1.0
    """Its capacity beside the others'; 0 asks for no new requests."""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Definition, ...] = ()
    """What the registry asks besides listening to heartbeats."""
    deregister_after_s: float = DEREGISTER_S

    def __post_init__(self) -> None:
        if not self.service or not self.address or not 0 < self.port < 65536:
            raise ValueError(f"{self!r} cannot be found: give it a service, an address and a port")
        if self.weight < 0:
            raise ValueError(f"a weight of {self.weight} makes no sense: give 0 or more")

    @property
    def identity(self) -> str:
        return self.id or f"{self.service}-{self.address}-{self.port}"

    @property
    def heartbeat(self) -> str:
        """The id of the check that the keeper answers for."""
        return f"service:{self.identity}"


class Registry(Protocol):
    """Raises GaplessError where the registry cannot be reached: then nothing has been registered. What was registered
    once is kept, whatever becomes of the registry."""

    async def register(self, registration: Registration) -> None:
        """It is found when this returns, and kept. The same id again replaces."""
        ...

    async def deregister(self, identity: str) -> None:
        """It is not found any more when this returns; no error when it has gone already."""
        ...

    async def passing(self, identity: str, note: str = "") -> None:
        """It is to be asked: as after registering. Raises UnknownName for one that is not registered here."""
        ...

    async def warn(self, identity: str, note: str = "") -> None:
        """It is not to be asked for the time being."""
        ...

    async def fail(self, identity: str, note: str = "") -> None:
        """It is broken; when it stays so it is deregistered."""
        ...

    async def list(self, service: str) -> tuple[Endpoint, ...]:
        """Those that are to be asked now, by whomever registered."""
        ...

    def watch(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        """Those that are to be asked: now, and again after each change."""
        ...

    async def aclose(self) -> None:
        """The keeper ends. What is registered stays until its time to live is over: deregister first what shall go."""
        ...


def registry_at(
    address: str, world: World | None = None, *, ttl_s: float = TTL_S
) -> AbstractAsyncContextManager[Registry]:
    """The registry at an address, open within the block. Raises ConfigError, and what the store raises."""
    if world is None:
        from gapless.core.world import RealWorld

        world = RealWorld()
    scheme, _, rest = address.partition("://")
    if scheme in AGENTS:
        from gapless.discovery.registry_agent import agent_registry

        return agent_registry(f"{AGENTS[scheme]}://{rest}", world, ttl_s)
    from gapless.discovery.registry_store import store_registry

    return store_registry(address, world, ttl_s)


def instance_of(registration: Registration) -> Instance:
    """As the catalog holds it. Weights there are whole numbers, so the exact one lies in the metadata."""
    exact = {"weight": f"{registration.weight:g}"} if registration.weight != 1.0 else {}
    known = {"version": registration.version, "zone": registration.zone}
    return Instance(
        service=registration.service,
        id=registration.identity,
        tags=registration.tags,
        address=registration.address,
        port=registration.port,
        meta={**registration.meta, **{name: text for name, text in known.items() if text}, **exact},
        weights=Weights(max(1, round(registration.weight)), 1),
    )


def checks_of(registration: Registration, ttl_s: float, status: str = Status.PASSING) -> list[Check]:
    """The heartbeat first, then what the registry asks."""
    after = format_duration(registration.deregister_after_s)
    beat = Definition(ttl=format_duration(ttl_s), deregister_after=after)
    name = f"Service '{registration.service}' heartbeat"
    checks = [Check(node="", id=registration.heartbeat, name=name, status=status, definition=beat)]
    for number, definition in enumerate(registration.checks, start=1):
        checks.append(Check(node="", id=f"{registration.heartbeat}:{number}", definition=definition))
    return checks

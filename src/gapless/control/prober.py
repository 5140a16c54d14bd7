"""Asks every instance whether it is ready, and moves it between `starting`, `ready` and `unready`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from gapless.control.loop import Jobs
from gapless.control.records import Records
from gapless.core.events import Events, InstanceChanged
from gapless.core.grpc_health import GRPC_HEALTH
from gapless.core.lifecycle import probed
from gapless.core.model import Instance, Phase
from gapless.core.ports import World

EVERY_STARTING_S = 0.1
"""A start is watched closely: this is dead time in every deploy."""
EVERY_READY_S = 1.0
EVERY_FAILING_S = 0.3
"""Three failures make an instance unready: about a second after the first."""
PROBE_LIMIT_S = 2.0

Probe = Callable[[Instance, str], Awaitable[tuple[bool, str]]]
"""(instance, path) → (ready, why not)."""


async def probe(instance: Instance, path: str) -> tuple[bool, str]:
    """As the path asks for it."""
    return await probe_grpc(instance) if path == GRPC_HEALTH else await probe_http(instance, path)


async def probe_grpc(instance: Instance) -> tuple[bool, str]:
    """Ask the standard health service on a connection of its own: the port that calls come to answers for itself."""
    from gapless.discovery.catalog.values import Definition, Status
    from gapless.discovery.checks.ask_grpc import ask_grpc

    address = instance.address
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            result = await ask_grpc(Definition(grpc=str(address)))
    except (OSError, TimeoutError) as error:
        return False, f"{address} does not answer: {error or 'time limit'}"
    return (True, "") if result.status is Status.PASSING else (False, result.output)


async def probe_http(instance: Instance, path: str) -> tuple[bool, str]:
    """GET the path on a connection of its own; ready is a 2xx. An empty path: an accepted connection is enough."""
    address = instance.address
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                return await _ask(reader, writer, f"{address}", path) if path else (True, "")
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return False, f"{address} does not answer: {error or 'time limit'}"


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str) -> tuple[bool, str]:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status and status[0].startswith(b"2"):
        return True, ""
    return False, f"{path} answers {(status or [b'nothing'])[0].decode()}: {body.decode(errors='replace')[:500]}"


class Prober:
    """`step` starts a probe for each instance whose time has come."""

    def __init__(self, records: Records, world: World, events: Events, probe: Probe = probe) -> None:
        self._records = records
        self._world = world
        self._events = events
        self._probe = probe
        self._due: dict[str, float] = {}
        self.jobs = Jobs(lambda: None)

    async def step(self) -> None:
        live = {i.id: i for i in self._records.instances() if i.pid and i.phase in _PROBED}
        for gone in self._due.keys() - live.keys():
            del self._due[gone]
        now = self._world.now()
        for name, instance in live.items():
            if self._due.get(name, 0.0) <= now:
                self.jobs.start(name, partial(self._look, instance))

    async def _look(self, instance: Instance) -> None:
        service = self._records.service(instance.service)
        ok, detail = await self._probe(instance, service.ready_path if service else "")
        await self._judge(instance, ok, detail)

    async def _judge(self, instance: Instance, ok: bool, detail: str) -> None:
        now_at = self._world.time()
        asked = await self._records.amend(instance, lambda i: _uncounted(probed(i, ok, now_at, detail)))
        self._due[instance.id] = self._world.now() + _pause_s(asked or instance)
        if asked and asked.phase is not instance.phase:
            self._events(InstanceChanged(instance=asked))


_PROBED = (Phase.STARTING, Phase.READY, Phase.UNREADY)


def _uncounted(instance: Instance) -> Instance:
    """Failures before the first success mean nothing; counting them would write a record ten times a second."""
    return replace(instance, failures=0) if instance.phase is Phase.STARTING else instance


def _pause_s(instance: Instance) -> float:
    if instance.phase is Phase.STARTING:
        return EVERY_STARTING_S
    return EVERY_FAILING_S if instance.failures or instance.phase is Phase.UNREADY else EVERY_READY_S

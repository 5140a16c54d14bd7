"""Taking the instances of a system down, in an order in which nobody misses anybody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from gapless.control.records import Records, persist
from gapless.core.model import Instance, Phase, Service
from gapless.core.ports import Fleet

LOOK_EVERY_S = 0.1


def callers_first(services: Iterable[Service]) -> list[list[str]]:
    """Names in waves: a service comes after all that need it. `needs` has no cycles (config refuses them)."""
    waiting = {service.name: set(service.needs) for service in services}
    waves: list[list[str]] = []
    while waiting:
        needed = set().union(*waiting.values())
        wave = sorted(waiting.keys() - needed) or sorted(waiting)
        waves.append(wave)
        for name in wave:
            del waiting[name]
    return waves


async def impatiently(act: Coroutine[Any, Any, None], at_once: Callable[[], bool]) -> None:
    """Wait for an act that takes its time; cancel it, which ends it at once, when nobody wants to wait any more."""
    acting = asyncio.create_task(act)
    while not acting.done() and not at_once():
        await asyncio.wait({acting}, timeout=LOOK_EVERY_S)
    if not acting.done():
        acting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await acting


async def stop_instances(records: Records, fleet: Fleet, at_once: Callable[[], bool]) -> None:
    """Stop and forget every instance, wave by wave."""
    services = {service.name: service for service in records.services()}
    for wave in callers_first(services.values()):
        mine = [i for name in wave for i in records.instances(name)]
        await asyncio.gather(*(_stop(fleet, i, services[i.service].drain_s, at_once) for i in mine))
        await persist(lambda mine=mine: records.write(delete=mine))  # type: ignore[misc]
    known = {i.id for i in records.instances()}
    if strays := [r.id for r in await fleet.list() if r.id not in known and r.alive]:
        raise RuntimeError(f"still running without a record: {', '.join(strays)}")


async def _stop(fleet: Fleet, instance: Instance, drain_s: float, at_once: Callable[[], bool]) -> None:
    if instance.phase is Phase.STOPPED:
        return
    stopping = asyncio.create_task(fleet.stop(instance, drain_s))
    while not stopping.done() and not at_once():
        await asyncio.wait({stopping}, timeout=LOOK_EVERY_S)
    if not stopping.done():
        await fleet.stop(instance, 0.0)
    await stopping
    await fleet.forget(instance.id)

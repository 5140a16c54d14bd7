"""A fleet that only pretends. The checks that it and every real fleet pass are in `fleet_suite`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from gapless.core.errors import Busy, InstanceFailed, InvalidTransition, ReleaseError, ReloadRefused
from gapless.core.model import Address, Instance, Release, Service, Window
from gapless.core.model.network import LOOPBACK
from gapless.core.ports import Running
from gapless.testing.fleet_suite import FLEET_CHECKS, FleetRig, check_fleet, run_check

__all__ = ["FLEET_CHECKS", "FakeFleet", "FleetRig", "Script", "check_fleet", "run_check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How the instances of a release behave.

    `ready`: what a probe says. `crash`: how they end as soon as they are started; empty means that they go on. `log`:
    what they write. `refuse_start`, `refuse_reload`: the reason, when that fails.
    """

    ready: bool = True
    crash: str = ""
    log: str = ""
    refuse_start: str = ""
    refuse_reload: str = ""


class FakeFleet:
    """`core.ports.Fleet` without a process. `scripts` by version say how a release behaves; they may be changed at any
    time. `calls` records what was asked, in order: `("start", "orders-1")`.

    A test plays the world's part with `crash`; `probe` stands in for the readiness probe.
    """

    def __init__(self, scripts: Mapping[str, Script] | None = None) -> None:
        self.scripts: dict[str, Script] = dict(scripts or {})
        self.calls: list[tuple[str, str]] = []
        self.reloading: set[str] = set()
        """Instances that answer a reload with Busy."""
        self.snapshots: set[str] = set()
        self.answered: dict[str, Window] = {}
        """What `measure` tells, by instance."""
        self.told: dict[str, str] = {}
        """What `scrape` tells, by instance."""
        self.traced: dict[str, Mapping[str, Any]] = {}
        """What `spans` tells, by instance, once."""
        self._instances: dict[str, Instance] = {}
        self._running: dict[str, Running] = {}
        self._logs: dict[str, list[str]] = {}
        self._listeners: set[asyncio.Event] = set()
        self._pids = count(1_000)
        self._ports = count(20_000)

    async def snapshot(self, service: Service, source: Path, version: str, env: Mapping[str, str]) -> Release:
        """The digest is that of the files' bytes when `source` exists; a source that does not exist is refused only
        when its name is `absent`, so that most tests need no directory."""
        self.calls.append(("snapshot", service.name))
        if source.name == "absent":
            raise ReleaseError(f"{source} does not exist")
        digest = _digest(source)
        self.snapshots.add(digest)
        return Release(
            service=service.name,
            version=version,
            digest=digest,
            source=str(source),
            env={**service.env, **env},
            app=service.app,
            command=service.command,
        )

    async def prune(self, keep: set[str]) -> tuple[str, ...]:
        gone = tuple(sorted(self.snapshots - keep))
        self.snapshots &= keep
        return gone

    async def allocate(self) -> Address:
        return Address(host=LOOPBACK, port=next(self._ports))

    async def start(self, instance: Instance, release: Release, service: Service) -> int:
        self.calls.append(("start", instance.id))
        known = self._running.get(instance.id)
        if known and known.alive:
            return known.pid
        script = self.script(instance)
        if script.refuse_start:
            raise InstanceFailed(script.refuse_start)
        pid = next(self._pids)
        self._instances[instance.id] = instance
        self._running[instance.id] = Running(id=instance.id, pid=pid, alive=True)
        self._logs.setdefault(instance.id, []).extend(script.log.splitlines())
        if script.crash:
            self.crash(instance.id, script.crash)
        return pid

    async def stop(self, instance: Instance, drain_s: float) -> None:
        self.calls.append(("stop", instance.id))
        self._end(instance.id, "exited with status 0" if drain_s > 0 else "killed by SIGKILL")

    async def reload(self, instance: Instance) -> str:
        self.calls.append(("reload", instance.id))
        known = self._running.get(instance.id)
        if not known or not known.alive:
            raise InvalidTransition(f"instance {instance.id} is not running")
        if instance.id in self.reloading:
            raise Busy(f"instance {instance.id} is reloading already")
        if refused := self.script(instance).refuse_reload:
            raise ReloadRefused(refused)
        return "reloaded"

    async def measure(self, instance: Instance) -> Window | None:
        return self.answered.get(instance.id)

    async def scrape(self, instance: Instance) -> str:
        return self.told.get(instance.id, "")

    async def spans(self, instance: Instance, after: int) -> Mapping[str, Any]:
        return self.traced.pop(instance.id, {"last": after})

    async def list(self) -> Sequence[Running]:
        return tuple(self._running.values())

    async def forget(self, instance: str) -> None:
        self.calls.append(("forget", instance))
        known = self._running.get(instance)
        if known and known.alive:
            raise InvalidTransition(f"instance {instance} is running and cannot be forgotten")
        self._running.pop(instance, None)
        self._instances.pop(instance, None)

    def tail(self, instance: str, lines: int = 20) -> str:
        return "\n".join(self._logs.get(instance, ())[-lines:] if lines > 0 else ())

    @asynccontextmanager
    async def changed(self) -> AsyncIterator[AsyncIterator[None]]:
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield _Ticks(event)
        finally:
            self._listeners.discard(event)

    async def close(self) -> None:
        """Nothing is held."""

    # what a test does

    def script(self, instance: Instance) -> Script:
        return self.scripts.get(instance.release, Script())

    def crash(self, instance: str, detail: str = "killed by SIGKILL", log: str = "") -> None:
        """End an instance as if by itself."""
        self._logs.setdefault(instance, []).extend(log.splitlines())
        self._end(instance, detail)

    def probe(self, instance: str) -> bool:
        """What a readiness probe would say of it."""
        known = self._running.get(instance)
        return bool(known and known.alive) and self.script(self._instances[instance]).ready

    def _end(self, instance: str, detail: str) -> None:
        known = self._running.get(instance)
        if known and known.alive:
            self._running[instance] = replace(known, alive=False, detail=detail)
            for listener in self._listeners:
                listener.set()


class _Ticks:
    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def __aiter__(self) -> AsyncIterator[None]:
        return self

    async def __anext__(self) -> None:
        await self._event.wait()
        self._event.clear()


def _digest(source: Path) -> str:
    digest = hashlib.sha256(b"" if source.exists() else str(source).encode())
    for path in sorted(source.rglob("*")) if source.is_dir() else []:
        digest.update(str(path.relative_to(source)).encode() + (path.read_bytes() if path.is_file() else b"/"))
    return digest.hexdigest()

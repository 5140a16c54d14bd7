"""`core.ports.Fleet` on this machine: instances as processes in sessions of their own, on ports of one address.

They outlive the control plane. The next one finds them again by what was put into their environment, so nothing is
orphaned and nothing is started twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gapless.core.errors import ConfigError, InstanceFailed, InvalidTransition, ReloadRefused
from gapless.core.events import Event
from gapless.core.model import Address, Instance, Network, Release, Service, Window
from gapless.core.model.network import ON_LOOPBACK
from gapless.core.ports import Process, Running, World
from gapless.fleet import launch, process
from gapless.fleet.admin import Answer, get, post
from gapless.fleet.figures import figures, process_text
from gapless.fleet.follow import Line
from gapless.fleet.logs import Logs
from gapless.fleet.ports import Ports
from gapless.fleet.record import Record, Records
from gapless.fleet.release import Snapshots, in_thread
from gapless.fleet.reload import read_answer
from gapless.fleet.roster import UNSEEN, Member, Roster, Ticks
from gapless.observe.exposition import OPEN

DRAIN_MARGIN_S = 1.0
"""Beyond the drain's limit: the instance keeps the limit itself, and ends a little after it."""
DEATH_LIMIT_S = 10.0
"""After SIGKILL. Only a process that hangs inside the kernel takes longer."""
DEATH_LOOK_S = 0.02
RELOAD_LIMIT_S = 600.0
"""The instance keeps its own limits for each stage of a reload; this one is for an instance that hangs."""
TEND_LOGS_EVERY_S = 5.0
MEASURE_LIMIT_S = 2.0

_log = logging.getLogger("gapless.fleet")


class LocalFleet:
    """`state` is the state directory; `world` and `events` as everywhere. Nothing happens before the first call."""

    def __init__(
        self,
        state: Path,
        world: World,
        events: Callable[[Event], None],
        told: Mapping[str, str] | None = None,
        network: Network = ON_LOOPBACK,
    ) -> None:
        """`told`: further GAPLESS_ variables that instances are started with."""
        self._network = network
        self._told = told or {}
        self._state = Path(os.path.realpath(state))
        self._world = world
        self._snapshots = Snapshots(self._state / "releases", self._state, world, events)
        self._records = Records(launch.run_directory(self._state))
        self._logs = Logs(self._state / "logs")
        self._ports = Ports(world, network.bind)
        self._ticks = Ticks()
        self._roster = Roster(self._ticks)
        self._turn = asyncio.Lock()
        self._scanned = False
        self._tended_at = -TEND_LOGS_EVERY_S

    # releases

    async def snapshot(self, service: Service, source: Path, version: str, env: Mapping[str, str]) -> Release:
        """See `core.ports.Fleet`. The release keeps the service's settings of this moment, with `env` before them."""
        await self._begin()
        return Release(
            service=service.name,
            version=version,
            digest=await self._snapshots.make(source),
            source=str(source),
            env={**service.env, **env},
            app=service.app,
            command=service.command,
            created_at=self._world.time(),
        )

    async def prune(self, keep: set[str]) -> tuple[str, ...]:
        """Remove the snapshots whose digests are not in `keep`, and return their digests. The caller sees to it that
        nothing runs from them and that no deploy is under way."""
        await self._begin()
        return await self._snapshots.prune(keep)

    # instances

    async def allocate(self) -> Address:
        """See `core.ports.Fleet`."""
        return Address(host=self._network.advertise, port=await self._ports.allocate())

    async def start(self, instance: Instance, release: Release, service: Service) -> int:
        """See `core.ports.Fleet`. An ended instance of the same id is started anew, after its leftovers are killed."""
        await self._begin()
        launch.check_name(instance.id)
        async with self._turn:
            if found := self._roster.living(instance.id):
                return found.stat.pid
            if self._roster.find(instance.id):
                await self._sweep(instance.id)
            return await self._launch(instance, release, service)

    async def stop(self, instance: Instance, drain_s: float) -> None:
        """See `core.ports.Fleet`. With a `drain_s` of 0 there is no SIGTERM. SIGTERM is sent once, however often this
        is called, by whichever control plane; of several calls at once the most impatient decides. Raises
        InstanceFailed when something cannot be killed."""
        await self._begin()
        member = self._roster.living(instance.id)
        if member and drain_s > 0:
            await self._drain(member, drain_s + DRAIN_MARGIN_S)
        await self._sweep(instance.id)

    async def list(self) -> Sequence[Running]:
        """See `core.ports.Fleet`."""
        await self._begin()
        await self._tend_logs()
        return tuple(member.running() for member in self._roster)

    async def rescan(self) -> None:
        """Look at all processes again, for instances that somebody else started meanwhile."""
        await self._begin()
        async with self._turn:
            await self._adopt()

    async def forget(self, instance: str) -> None:
        """See `core.ports.Fleet`; kills what its dead leader left. Raises InvalidTransition while it lives."""
        await self._begin()
        if self._roster.living(instance):
            raise InvalidTransition(f"instance {instance} is running and cannot be forgotten", "Stop it first.")
        await self._sweep(instance)
        self._roster.forget(instance)
        self._records.remove(instance)
        launch.admin_socket(self._state, instance).unlink(missing_ok=True)

    def changed(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """See `core.ports.Fleet`."""
        return self._ticks.listen()

    async def reload(self, instance: Instance) -> str:
        """See `core.ports.Fleet`. Raises InvalidTransition for `command` services and for what does not run."""
        await self._begin()
        if not self._roster.living(instance.id):
            raise InvalidTransition(f"instance {instance.id} is not running", "See `gapless status`.")
        record = self._records.find(instance.id)
        if record and not record.app:
            raise InvalidTransition(
                f"instance {instance.id} runs a `command`, which Gapless cannot restart in place",
                f"Deploy a release: `gapless deploy {instance.service}`.",
            )
        return read_answer(instance.id, await self._post_reload(instance.id))

    async def measure(self, instance: Instance) -> Window | None:
        """See `core.ports.Fleet`: from the admin socket, which `command` services do not have."""
        try:
            answer = await get(launch.admin_socket(self._state, instance.id), "/metrics", MEASURE_LIMIT_S)
            return figures(answer.text) if answer.status == 200 else None
        except (OSError, TimeoutError, ValueError) as error:
            _log.debug("instance %s does not tell what it has answered: %s", instance.id, error)
            return None

    async def scrape(self, instance: Instance) -> str:
        """See `core.ports.Fleet`. Of a `command`, which has no admin socket, what the machine tells of its process."""
        socket = launch.admin_socket(self._state, instance.id)
        if not socket.exists():
            return process_text(instance.pid)
        try:
            answer = await get(socket, "/metrics", MEASURE_LIMIT_S, accept=OPEN)
        except (OSError, TimeoutError) as error:
            _log.debug("instance %s does not tell its metrics: %s", instance.id, error)
            return ""
        return answer.text if answer.status == 200 else ""

    async def spans(self, instance: Instance, after: int) -> Mapping[str, Any]:
        """See `core.ports.Fleet`. A `command`, or a server of an older version, has none."""
        socket = launch.admin_socket(self._state, instance.id)
        if not socket.exists():
            return {}
        try:
            answer = await get(socket, f"/traces?after={after}", MEASURE_LIMIT_S)
            found: Mapping[str, Any] = json.loads(answer.text) if answer.status == 200 else {}
        except (OSError, TimeoutError, ValueError) as error:
            _log.debug("instance %s does not tell its spans: %s", instance.id, error)
            return {"last": after}
        return found

    async def close(self) -> None:
        """Watch no longer. The instances go on, for the next control plane to adopt."""
        await self._roster.close()

    # logs

    def tail(self, instance: str, lines: int = 20) -> str:
        """See `core.ports.Fleet`."""
        return self._logs.tail(instance, lines)

    def follow(self, instance: str, since: int | None = None) -> AsyncIterator[Line]:
        """The lines of its log as they come, for ever. `since`: a byte of the present file; None means from now on."""
        return self._logs.follow(lambda: (instance,), self._world, since)

    def follow_many(self, names: Callable[[], Iterable[str]], since: int | None = None) -> AsyncIterator[Line]:
        """The lines of several logs in the order of their arrival. `names` is asked again and again, so that instances
        that are started meanwhile join in; these are read from their beginning."""
        return self._logs.follow(names, self._world, since)

    # inside

    async def _begin(self) -> None:
        """Once: tidy up after a crash and take over what runs."""
        if self._scanned:
            return
        async with self._turn:
            if not self._scanned:
                await in_thread(self._prepare)
                await self._adopt()
                self._scanned = True

    def _prepare(self) -> None:
        try:
            for place in ("run", "logs", "releases"):
                (self._state / place).mkdir(parents=True, exist_ok=True)
            self._snapshots.sweep()
        except OSError as error:
            raise ConfigError(
                f"the state directory {self._state} cannot be used: {error}", "Correct that, or name another --state."
            ) from error

    async def _adopt(self) -> None:
        found = await in_thread(process.scan, str(self._state))
        for name, stat in process.leaders(found).items():
            if not self._roster.living(name):
                record = self._records.find(name)
                self._roster.adopt(name, stat).told_to_end = bool(record and record.ending)
        for record in self._records.read():
            if not self._roster.find(record.id):
                self._adopt_recorded(record)
        for name in {one.instance for one in found if one.instance and not self._roster.find(one.instance)}:
            self._roster.add_ended(name, _gone(0, 0), "its leader has ended and left processes behind")

    def _adopt_recorded(self, record: Record) -> None:
        """A program may have overwritten its environment; then its number and its start tell who it is."""
        stat = process.read_stat(record.pid)
        if stat and stat.began == record.began and not stat.dead:
            self._roster.adopt(record.id, stat).told_to_end = record.ending
        else:
            self._roster.add_ended(record.id, _gone(record.pid, record.began), UNSEEN)

    async def _launch(self, instance: Instance, release: Release, service: Service) -> int:
        argv, env = self._command(instance, release, service)
        launch.admin_socket(self._state, instance.id).unlink(missing_ok=True)
        child = await self._spawn(instance, argv, env, self._snapshots.code(release.digest))
        stat = process.read_stat(child.pid) or _gone(child.pid, 0)
        self._roster.add_child(instance.id, stat, child)
        app = launch.is_app(release, service)
        self._record(Record(id=instance.id, pid=child.pid, began=stat.began, app=app))
        return child.pid

    def _command(
        self, instance: Instance, release: Release, service: Service
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        if not self._snapshots.has(release.digest):
            raise InstanceFailed(
                f"the snapshot of {release.service} {release.version} is gone ({self._snapshots.code(release.digest)})",
                f"Deploy it again: `gapless deploy {release.service} --from {release.source}`.",
            )
        python = self._snapshots.python(release.digest)
        isolated = python != sys.executable or sys.prefix != sys.base_prefix
        first = Path(python).parent if isolated else None
        argv = launch.argv(instance, release, service, self._state, python, self._network)
        return argv, launch.environment({**os.environ, **self._told}, instance, release, service, self._state, first)

    async def _spawn(self, instance: Instance, argv: Sequence[str], env: Mapping[str, str], code: Path) -> Process:
        log = self._logs.path(instance.id)
        try:
            return await self._world.spawn(argv, env=env, cwd=code, output=log)
        except OSError as error:
            if error.filename == str(log):
                raise InstanceFailed(
                    f"the log {log} cannot be written: {error.strerror}", "Make room there."
                ) from error
            raise InstanceFailed(
                f"{argv[0]} cannot be started for instance {instance.id}: {error.strerror}",
                f"Correct `command` of {instance.service}; its PATH is {env.get('PATH', 'empty')}.",
            ) from error

    def _record(self, record: Record) -> None:
        try:
            self._records.write(record)
        except OSError as error:  # the process bears its name too; only an end that nobody sees would go unreported
            _log.warning("instance %s could not be recorded: %s", record.id, error)

    def _record_ending(self, instance: str) -> None:
        """A second SIGTERM would end it at once: the next control plane must not send one."""
        if record := self._records.find(instance):
            self._record(replace(record, ending=True))

    async def _drain(self, member: Member, limit_s: float) -> None:
        if not member.told_to_end:
            member.told_to_end = True
            self._record_ending(member.name)
            member.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                await member.ended.wait()
        except TimeoutError:
            _log.warning("instance %s did not end within %g s; it is killed", member.name, limit_s)

    async def _sweep(self, instance: str) -> None:
        """SIGKILL whatever is left of it and wait until nothing is."""
        member = self._roster.find(instance)
        until = self._world.now() + DEATH_LIMIT_S
        while left := await self._left(instance, member):
            if self._world.now() > until:
                raise InstanceFailed(
                    f"instance {instance}: process {left[0].pid} does not die (state {left[0].state})",
                    "It hangs inside the kernel, often on a disk or a mount that does not answer: look there.",
                )
            for stat in left:
                process.kill(stat)
            await self._world.sleep(DEATH_LOOK_S)
        if member:
            await member.ended.wait()
            member.swept = True

    async def _left(self, instance: str, member: Member | None) -> Sequence[process.Stat]:
        session = member.stat.pid if member and not member.swept else 0
        return process.members(await in_thread(process.scan, str(self._state)), instance, session)

    async def _post_reload(self, instance: str) -> Answer:
        try:
            return await post(launch.admin_socket(self._state, instance), "/reload", RELOAD_LIMIT_S)
        except TimeoutError as error:
            raise ReloadRefused(f"instance {instance} did not answer within {RELOAD_LIMIT_S:g} s") from error
        except OSError as error:
            raise ReloadRefused(
                f"instance {instance} cannot be asked to reload: {error}", f"Look at `gapless logs {instance}`."
            ) from error

    async def _tend_logs(self) -> None:
        if self._world.now() < self._tended_at + TEND_LOGS_EVERY_S:
            return
        self._tended_at = self._world.now()
        try:
            await in_thread(self._logs.tend, {member.name for member in self._roster})
        except OSError as error:
            _log.warning("logs cannot be rotated: %s", error)


def _gone(pid: int, began: int) -> process.Stat:
    return process.Stat(pid=pid, state="X", parent=0, session=pid, began=began)

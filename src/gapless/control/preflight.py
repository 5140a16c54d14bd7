"""Gathers what the preflight looks at: definitions, recorded peaks, and this machine."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gapless.control.applying import merged
from gapless.control.commands import Commands
from gapless.control.records import Records
from gapless.core.errors import RiskTooHigh, SignalsUnavailable
from gapless.core.model import Service
from gapless.core.ports import Selection, Series, Signals, World
from gapless.rollout.preflight import Coming, Machine, Peaks, Report, Risk, preflight

LOOK_BACK_S = 7 * 86_400.0
"""What is recorded is less, as a rule: a day."""
STEP_S = 60.0

Table = Mapping[float, float]


class Preflight:
    """`report` raises UnknownName; `refuse` raises RiskTooHigh. `file`: reads the definitions of gapless.yaml as it is
    now; raises ConfigError."""

    def __init__(
        self,
        records: Records,
        commands: Commands,
        signals: Signals,
        world: World,
        file: Callable[[], Mapping[str, Service]],
    ) -> None:
        self._records = records
        self._commands = commands
        self._signals = signals
        self._world = world
        self._file = file

    async def report(self, name: str, release: str = "", *, by_file: bool = False) -> Report:
        """Of the next rollout; of one to `release`, with what that one showed when it ran. `by_file`: by gapless.yaml,
        which need not be in force. Raises UnknownName, ConfigError."""
        present = self._commands.known(name)
        services = {each.name: each for each in self._records.services()}
        if by_file:
            services |= await asyncio.to_thread(self._file)
            services[name] = merged(present, services[name])
        coming = Coming(release=release, room=await self._room(name, release), present=present)
        peaks = await self._peaks(present)
        found = list(services.values())
        return preflight(services[name], found, peaks, await asyncio.to_thread(machine), coming)

    async def refuse(self, releases: Sequence[tuple[str, str]]) -> None:
        """For services whose policy says so, when the risk of a rollout to a release is high."""
        for name, release in releases:
            if self._commands.known(name).rollout.preflight_blocks:
                report = await self.report(name, release)
                high = [line for line in report.lines if line.risk is Risk.HIGH]
                if high:
                    told = "; ".join(f"{line.what}: {line.told} ({_numbers(line.used, line.limit)})" for line in high)
                    raise RiskTooHigh(f"{name} is not deployed: {told}")

    async def _room(self, name: str, release: str) -> dict[str, float]:
        """By pool, the least that any instance of a release had room for; nothing when it never ran."""
        if not release:
            return {}
        where = {"service": name, "release": release}
        try:
            found = await self._many(Selection(metric="pool_max_size", where=where, by=("pool", "instance")))
        except SignalsUnavailable:
            return {}
        rooms: dict[str, float] = {}
        for one in found:
            pool, last = one.labels.get("pool", ""), one.points[-1][1] if one.points else 0.0
            rooms[pool] = min(rooms.get(pool, last), last)
        return {pool: room for pool, room in rooms.items() if room}

    async def _peaks(self, service: Service) -> Peaks:
        """What cannot be asked now was not recorded."""
        try:
            return await self._asked(service)
        except SignalsUnavailable:
            return Peaks()

    async def _asked(self, service: Service) -> Peaks:
        where = {"service": service.name}
        rate, gateway, mean, in_flight = await asyncio.gather(
            self._one(Selection(metric="gapless_requests_total", where=where, of="rate")),
            self._one(Selection(metric="gapless_gateway_requests_total", where=where, of="rate")),
            self._one(Selection(metric="gapless_request_duration_seconds", where=where, of="mean")),
            self._one(Selection(metric="gapless_requests_in_flight", where=where)),
        )
        memory, descriptors, pools, rooms = await asyncio.gather(
            self._many(Selection(metric="process_resident_memory_bytes", where=where, by=("instance",))),
            self._many(Selection(metric="process_open_fds", where=where, by=("instance",))),
            self._many(Selection(metric="pool_in_use", where=where, by=("pool",))),
            self._many(Selection(metric="pool_max_size", where=where, by=("pool",))),
        )
        requests = rate or gateway
        at_once = [requests[at] * seconds for at, seconds in mean.items() if at in requests]
        return Peaks(
            recorded_s=_reach(self._world.time(), (requests, in_flight, *map(_table, memory))),
            requests_per_s=max(requests.values(), default=None),
            concurrent=max((*at_once, *in_flight.values()), default=None),
            memory_bytes=_highest(memory),
            descriptors=_highest(descriptors),
            in_pool={one.labels.get("pool", ""): max(_table(one).values()) for one in pools if one.points},
            pool_room={one.labels.get("pool", ""): one.points[-1][1] for one in rooms if one.points},
        )

    async def _one(self, selection: Selection) -> Table:
        found = await self._many(selection)
        return _table(found[0]) if found else {}

    async def _many(self, selection: Selection) -> Sequence[Series]:
        now_at = self._world.time()
        return await self._signals.series(selection, now_at - LOOK_BACK_S, now_at, STEP_S)


def _table(series: Series) -> Table:
    return dict(series.points)


def _highest(found: Sequence[Series]) -> float | None:
    return max((value for one in found for _, value in one.points), default=None)


def _reach(now_at: float, tables: Sequence[Table]) -> float:
    first = min((at for table in tables for at in table), default=now_at)
    return now_at - first


def _numbers(used: float | None, limit: float | None) -> str:
    return f"{used or 0:.4g} of {limit or 0:.4g}"


def machine() -> Machine:
    """This one. Source: proc(5)."""
    memory = _memory(Path("/proc/meminfo"))
    total = memory.get("MemTotal", 0)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        memory_bytes=total,
        used_bytes=max(total - memory.get("MemAvailable", total), 0),
        descriptors=soft if soft != resource.RLIM_INFINITY else 0,
        processors=len(os.sched_getaffinity(0)),
    )


def _memory(path: Path) -> dict[str, int]:
    """Bytes by name; nothing where there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    found = (line.partition(":") for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, _, value in found if value.strip().endswith("kB")}

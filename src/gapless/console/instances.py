"""Instances by service, and a single one with its log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapless.console.sight import Sight
from gapless.core.errors import UnknownName
from gapless.core.model import Instance, Phase, Rollout, RolloutState, Service
from gapless.fleet import admin

TONES = {
    Phase.STARTING: "accent",
    Phase.READY: "good",
    Phase.UNREADY: "warn",
    Phase.DRAINING: "warn",
    Phase.STOPPED: "plain",
}
ENDED_SHOWN = 6
LOG_LINES = 120
ASK_LIMIT_S = 0.3
"""An instance that does not tell about its connections so soon is shown without them."""

KNOWN = frozenset({"time", "level", "message", "service", "release", "instance", "logger"})
"""Of a log line: what is shown by itself, or says where one is already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """`connections`: open to it now, None when it does not tell. `drain`: 0…1 of its drain limit, while it drains."""

    instance: Instance
    tone: str
    state: str
    detail: str
    connections: int | None
    workers: int | None
    drain: float | None
    drain_left_s: float
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    service: str
    wanted: int
    ready: int
    shown: tuple[Shown, ...]
    can_reload: bool
    can_scale: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancesView:
    groups: tuple[Group, ...]
    service: str
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """`clock` and `more` (what else it carries) are empty where it is no JSON."""

    text: str
    tone: str
    clock: str = ""
    more: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    shown: Shown
    log: tuple[LogLine, ...]
    source: str
    limit_s: float


async def instances_view(sight: Sight, params: Mapping[str, str]) -> InstancesView:
    chosen = params.get("service", "")
    services = [s for s in sight.records.services() if not chosen or s.name == chosen]
    told = await _ask([i for s in services for i in sight.records.instances(s.name)], sight.plane.system.state)
    return InstancesView(
        groups=tuple(_group(sight, service, told) for service in services),
        service=chosen,
        services=tuple(s.name for s in sight.records.services()),
    )


async def instance_view(sight: Sight, params: Mapping[str, str]) -> InstanceView:
    """Raises UnknownName for one that is not kept any more."""
    instance = next((i for i in sight.records.instances() if i.id == params["id"]), None)
    service = sight.records.service(instance.service) if instance else None
    if instance is None or service is None:
        raise UnknownName(
            f"there is no instance {params['id']}", "It has ended some time ago; see those that are there."
        )
    told = await _ask([instance], sight.plane.system.state)
    release = sight.records.release(instance.service, instance.release)
    return InstanceView(
        shown=shown(instance, service, told.get(instance.id), _roles(sight, service.name), sight.at),
        log=tuple(map(log_line, sight.plane.fleet.tail(instance.id, LOG_LINES).splitlines())),
        source=release.source if release else "",
        limit_s=service.drain_s,
    )


def _group(sight: Sight, service: Service, told: Mapping[str, dict[str, Any]]) -> Group:
    instances = in_order(sight.records.instances(service.name))
    roles = _roles(sight, service.name)
    ready = sum(i.phase is Phase.READY for i in instances)
    return Group(
        service=service.name,
        wanted=service.instances,
        ready=ready,
        shown=tuple(shown(i, service, told.get(i.id), roles, sight.at) for i in instances),
        can_reload=bool(ready and service.app),
        can_scale=not moves(sight.records.rollout(service.name)),
    )


def moves(newest: Rollout | None) -> bool:
    """A rollout has planned with the instances that there are."""
    return newest is not None and not newest.state.ended and newest.state is not RolloutState.SCHEDULED


def _roles(sight: Sight, name: str) -> dict[str, str]:
    newest = sight.records.rollout(name)
    return {newest.after: "new"} if newest and not newest.state.ended else {}


def in_order(instances: Sequence[Instance]) -> list[Instance]:
    """The living by release, the oldest first; then the few that ended last."""
    living = sorted(
        (i for i in instances if i.phase is not Phase.STOPPED), key=lambda i: (i.release, i.created_at, i.id)
    )
    ended = sorted((i for i in instances if i.phase is Phase.STOPPED), key=lambda i: i.since_at, reverse=True)
    return living + ended[:ENDED_SHOWN]


def shown(
    instance: Instance, service: Service, told: Mapping[str, Any] | None, roles: Mapping[str, str], now_at: float
) -> Shown:
    draining = instance.phase is Phase.DRAINING
    spent_s = max(now_at - instance.since_at, 0.0)
    return Shown(
        instance=instance,
        tone="bad" if instance.failed else TONES[instance.phase],
        state="failed" if instance.failed and instance.phase is Phase.STOPPED else str(instance.phase),
        detail=instance.detail.partition("\n")[0],
        connections=connections_of(told) if told else None,
        workers=workers_of(told) if told else None,
        drain=min(spent_s / service.drain_s, 1.0) if draining and service.drain_s else None,
        drain_left_s=max(service.drain_s - spent_s, 0.0),
        role=roles.get(instance.release, "stable"),
    )


def log_line(text: str) -> LogLine:
    """Its tone by the level that it names, in whatever format it is written; JSON as people read it."""
    found = _json(text)
    if found is None:
        return LogLine(text=text, tone=_tone(text))
    more = (f"{key}={value}" for key, value in found.items() if key not in KNOWN and not isinstance(value, dict | list))
    return LogLine(
        text=str(found["message"]),
        tone=_tone(str(found.get("level", ""))),
        clock=str(found.get("time", "")).partition("T")[2][:12],
        more=" ".join(more),
    )


def _json(text: str) -> dict[str, Any] | None:
    """A line as services of ours write it."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None  # cut, or somebody else's
    return found if isinstance(found, dict) and "message" in found else None


def _tone(text: str) -> str:
    upper = text.upper()
    if any(level in upper for level in ("ERROR", "CRITICAL", "TRACEBACK")):
        return "bad"
    return "warn" if "WARN" in upper else ""


def connections_of(told: Mapping[str, Any]) -> int:
    return sum(int(worker.get("connections") or 0) for worker in told.get("workers", ()))


def workers_of(told: Mapping[str, Any]) -> int:
    return sum(bool(worker.get("accepting")) for worker in told.get("workers", ()))


async def _ask(instances: Sequence[Instance], state: Path) -> dict[str, dict[str, Any]]:
    """What the servers of these instances say of themselves, of those that do in time."""
    living = [i for i in instances if i.phase in (Phase.READY, Phase.UNREADY, Phase.DRAINING)]
    answers = await asyncio.gather(*(_ask_one(state / "run" / f"{i.id}.sock") for i in living))
    return {i.id: answer for i, answer in zip(living, answers, strict=True) if answer is not None}


async def _ask_one(socket: Path) -> dict[str, Any] | None:
    try:
        answer = await admin.get(socket, "/status", ASK_LIMIT_S)
        found = json.loads(answer.text) if answer.status == 200 else None
    except (OSError, TimeoutError, ValueError):
        return None
    return found if isinstance(found, dict) else None

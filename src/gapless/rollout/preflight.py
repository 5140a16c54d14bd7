"""Whether a release has room: what it will have while it is rolled out, against what was recorded. Pure.

Each line is a number and its limit. At 80 % of a limit the risk is medium, at the limit it is high. What is not known
is said to be unknown, and is no low risk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gapless.core.model import RolloutPolicy, Service, Strategy
from gapless.core.model.pools import DeclaredPool
from gapless.rollout.gates import described
from gapless.rollout.plan import plan_for, replaced_at_once

MEDIUM_FROM, HIGH_FROM = 0.8, 1.0
PROCESSES_PER_CORE = 2.0
"""Workers that start at once beyond this share a processor with so many others that starts take long."""


class Risk(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """The highest that was recorded for a service; None: nothing was."""

    recorded_s: float = 0.0
    """How far back the record reaches."""
    requests_per_s: float | None = None
    concurrent: float | None = None
    """Requests at once, by Little's law: rate x mean duration; or the gauge, if that was higher."""
    memory_bytes: float | None = None
    """Of one instance."""
    descriptors: float | None = None
    """Of one instance."""
    in_pool: Mapping[str, float] = field(default_factory=dict)
    """Connections in use at once in all instances, by pool."""
    pool_room: Mapping[str, float] = field(default_factory=dict)
    """What all instances together have room for, by pool, as they say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """The release that is to be rolled out, as far as it is known. `present`: the service as it is defined now, when it
    is weighed by another definition."""

    release: str = ""
    room: Mapping[str, float] = field(default_factory=dict)
    """What one of its instances has room for, by pool, as it said when it ran."""
    present: Service | None = None


ANY = Coming()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine has; 0: not known. `used_bytes`: by everything that runs now."""

    memory_bytes: int = 0
    used_bytes: int = 0
    descriptors: int = 0
    """That one process may have."""
    processors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`used` and `limit` in `unit`; `headroom` is the share (0…1) that is left, negative beyond the limit."""

    what: str
    risk: Risk
    told: str
    used: float | None = None
    limit: float | None = None
    unit: str = ""
    headroom: float | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    service: str
    lines: tuple[Line, ...]

    @property
    def risk(self) -> Risk:
        """The highest of all lines; what is unknown goes before low."""
        order = (Risk.HIGH, Risk.MEDIUM, Risk.UNKNOWN, Risk.LOW)
        return next((risk for risk in order if any(line.risk is risk for line in self.lines)), Risk.LOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Instances of a service during a rollout: `most` at once, and `fewest` that answer. `pairs`: how many of the old
    and of the new release there are at once, at each step and after the last."""

    most: int
    fewest: int
    pairs: tuple[tuple[int, int], ...]


def crowd(policy: RolloutPolicy, instances: int) -> Crowd:
    plan = plan_for(policy, instances)
    before = [plan.old_at_start, *(step.old_instances for step in plan.steps)]
    pairs = [(old, step.new_instances) for old, step in zip(before, plan.steps, strict=False)]
    most = max(old + new for old, new in pairs)
    return Crowd(
        most=max(most, instances), fewest=instances - _missing(policy, instances), pairs=(*pairs, (0, instances))
    )


def _missing(policy: RolloutPolicy, instances: int) -> int:
    return replaced_at_once(policy, instances)[1] if policy.strategy is Strategy.ROLLING else 0


def preflight(
    service: Service, services: Sequence[Service], peaks: Peaks, machine: Machine, coming: Coming = ANY
) -> Report:
    """Of a rollout of `service`. `services`: all of the system, with whom it shares pools."""
    found = crowd(service.rollout, service.instances)
    lines = [
        _record(peaks),
        *_definition(service, coming),
        *_rate(service, peaks),
        *_concurrency(service, peaks, found),
        *_pools(service, services, peaks, found, coming),
        _memory(service, peaks, machine, found),
        _descriptors(service, peaks, machine),
        _processors(service, machine, found),
        *_mirror(service),
    ]
    return Report(service=service.name, lines=tuple(lines))


def _line(what: str, used: float | None, limit: float | None, unit: str, told: str, remedy: str) -> Line:
    if used is None or not limit:
        missing = "nothing is recorded yet" if used is None else "the limit is not known"
        return Line(what=what, risk=Risk.UNKNOWN, told=f"{told}; {missing}", used=used, limit=limit, unit=unit)
    share = used / limit
    risk = Risk.HIGH if share >= HIGH_FROM else Risk.MEDIUM if share >= MEDIUM_FROM else Risk.LOW
    return Line(
        what=what,
        risk=risk,
        told=told,
        used=used,
        limit=limit,
        unit=unit,
        headroom=1 - share,
        remedy="" if risk is Risk.LOW else remedy,
    )


def _record(peaks: Peaks) -> Line:
    if not peaks.recorded_s:
        told = "no metrics are recorded yet: what depends on peaks is unknown"
        return Line(what="record", risk=Risk.UNKNOWN, told=told, remedy="Deploy again after a day with users.")
    told = f"the record reaches {peaks.recorded_s / 3600:.1f} h back; a peak before that is not seen"
    return Line(what="record", risk=Risk.LOW, told=told, used=peaks.recorded_s, unit="s")


def _definition(service: Service, coming: Coming) -> Iterator[Line]:
    """A deploy starts instances by what is in force."""
    present = coming.present
    names = ("instances", "workers", "pools", "protect", "rollout")
    changed = [name for name in names if present and getattr(present, name) != getattr(service, name)]
    if changed:
        told = f"weighed as gapless.yaml says now; its {' and '.join(changed)} of {service.name} are not in force yet"
        yield Line(what="definition", risk=Risk.MEDIUM, told=told, remedy="`gapless apply` before the deploy.")


def _rate(service: Service, peaks: Peaks) -> Iterator[Line]:
    rate = service.protect.rate if service.protect else None
    if rate is None or rate.by:
        return
    told = f"peak of the requests against protect.rate ({rate.limit} in {rate.per_s:g} s)"
    yield _line("rate", peaks.requests_per_s, rate.limit / rate.per_s, "requests/s", told, "Raise protect.rate.")


def _concurrency(service: Service, peaks: Peaks, found: Crowd) -> Iterator[Line]:
    limit = service.protect.limit if service.protect else None
    if limit is None:
        return
    room = limit.max * service.workers * found.fewest
    told = f"requests at once at the peak against protect.limit x {service.workers} workers x {found.fewest} instances"
    yield _line("concurrency", peaks.concurrent, room, "requests", told, "More instances, or a higher limit.")


def _pools(service: Service, services: Sequence[Service], peaks: Peaks, found: Crowd, coming: Coming) -> Iterator[Line]:
    for pool in service.pools:
        room, told = float(pool.size * service.workers), f"{pool.size} x {service.workers} workers"
        if own := coming.room.get(pool.name):
            room, told = own, f"{own:g} in an instance of {coming.release}"
        told = f"in use at the peak against {told} x {found.fewest} instances"
        remedy = f"A larger pool, or find out what holds its connections: pool {pool.name}."
        limit = room * found.fewest
        yield _line(f"pool {pool.name}", peaks.in_pool.get(pool.name), limit, "connections", told, remedy)
        if pool.most:
            yield _shared(pool, service, services, found, coming)
    declared = {pool.name for pool in service.pools}
    for name in sorted(peaks.in_pool.keys() - declared):
        yield _undeclared(name, service, peaks, found, coming)


def _undeclared(name: str, service: Service, peaks: Peaks, found: Crowd, coming: Coming) -> Line:
    own = coming.room.get(name)
    has = (peaks.pool_room.get(name, 0.0) / service.instances if own is None else own) * found.fewest
    whose = f" of {coming.release}" if own is not None else ""
    told = f"connections in use at the peak against what {found.fewest} instances{whose} have room for"
    line = _line(f"pool {name}", peaks.in_pool[name], has, "connections", told, f"A larger pool {name}.")
    if not coming.release or own is not None or line.risk is not Risk.LOW:
        return line
    told = f"{told}; {coming.release} has never run, and may have another size"
    return replace(line, risk=Risk.UNKNOWN, told=told, remedy=f"Declare it: `pools: {{{name}: {{size: …}}}}`.")


def _shared(pool: DeclaredPool, service: Service, services: Sequence[Service], found: Crowd, coming: Coming) -> Line:
    """All connections that all services may open while this one is rolled out, old instances and new ones."""
    present = coming.present or service
    was = sum(each.size for each in present.pools if each.name == pool.name) * present.workers
    now = coming.room.get(pool.name) or pool.size * service.workers
    own = max(old * was + new * now for old, new in found.pairs)
    all_of = [s for s in services if s.name != service.name]
    others = sum(p.size * s.workers * s.instances for s in all_of for p in s.pools if p.name == pool.name)
    told = f"{found.most} instances of {service.name} at once may open {own:g}, other services {others}"
    remedy = f"Smaller pools, fewer workers, less surge; or let {pool.name} accept more."
    return _line(f"connections of {pool.name}", own + others, pool.most, "connections", told, remedy)


def _memory(service: Service, peaks: Peaks, machine: Machine, found: Crowd) -> Line:
    told = f"{found.most - service.instances} more instances at the peak of one, beside what is used now"
    used = None if peaks.memory_bytes is None else machine.used_bytes + _more(service, peaks.memory_bytes, found)
    remedy = "Less surge (`strategy: rolling`), fewer workers, or a larger machine."
    return _line("memory", used, machine.memory_bytes, "bytes", told, remedy)


def _more(service: Service, memory_bytes: float, found: Crowd) -> float:
    return memory_bytes * max(found.most - service.instances, 0)


def _descriptors(service: Service, peaks: Peaks, machine: Machine) -> Line:
    used = None if peaks.descriptors is None else peaks.descriptors / service.workers
    told = "descriptors of one worker at the peak against what a process may have"
    return _line("descriptors", used, machine.descriptors, "descriptors", told, "Raise `ulimit -n`.")


def _processors(service: Service, machine: Machine, found: Crowd) -> Line:
    """Never high: work takes longer, and is done."""
    workers = found.most * service.workers
    told = f"{found.most} instances x {service.workers} workers at once on {machine.processors} processors"
    line = _line("processors", workers, machine.processors * PROCESSES_PER_CORE, "workers", told, "Fewer at once.")
    if line.risk is not Risk.HIGH:
        return line
    return replace(line, risk=Risk.MEDIUM)


def _mirror(service: Service) -> Iterator[Line]:
    rule = service.rollout.mirror
    if rule is None:
        return
    told = described(RolloutPolicy(mirror=rule))[0]
    if rule.unsafe:
        remedy = "Name them only where the new release writes to a place of its own."
        yield Line(what="mirror", risk=Risk.MEDIUM, told=told, remedy=remedy)
    else:
        yield Line(what="mirror", risk=Risk.LOW, told=told)

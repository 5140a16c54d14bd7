"""Services, their releases and instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gapless.core.model.address import Address
from gapless.core.model.calendar import Calendar
from gapless.core.model.gateway import Cors, Upstream
from gapless.core.model.metric import DerivedMetric
from gapless.core.model.pools import DeclaredPool
from gapless.core.model.rollout import Objective, RolloutPolicy
from gapless.core.model.routing import Route
from gapless.core.phase import Phase
from gapless.core.protect import Protect


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The definition of a service, as `gapless.yaml` gives it and the store keeps it."""

    name: str
    app: str = ""
    """`module:attribute` of an ASGI app, or with `upstream.protocol` grpc of a function that adds servicers; empty when
    `command` is given."""
    command: tuple[str, ...] = ()
    """argv of any program that speaks HTTP; `{port}` and `{host}` are replaced."""
    source: str = "."
    """Directory or wheel, absolute, that the first release and `gapless deploy` without --from are made of."""
    instances: int = 2
    declared: int = 0
    """What gapless.yaml asks for, after `scale` has changed `instances`; 0 when it has not."""
    workers: int = 1
    routes: tuple[Route, ...] = ()
    needs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/readyz"
    """Probed for readiness, by HTTP unless it is `GRPC_HEALTH`; empty means that an accepted connection is enough (for
    `command` services)."""
    start_s: float = 30.0
    drain_s: float = 30.0
    timeout_s: float = 15.0
    """The gateway's deadline for one request, retries included."""
    rollout: RolloutPolicy = RolloutPolicy()
    calendars: tuple[Calendar, ...] = ()
    """When its releases may be moved: as far as all of them are open."""
    objective: Objective = Objective()
    metrics: Mapping[str, DerivedMetric] = field(default_factory=dict)
    """Rates and ratios of what its code counts, by name."""
    protect: Protect | None = None
    pools: tuple[DeclaredPool, ...] = ()
    access_log: float = 0.0
    """The share of its requests (0…1) that its instances log."""
    upstream: Upstream = Upstream()
    cors: Cors | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """An immutable version of a service: a snapshot of code, its environment and its settings."""

    service: str
    version: str
    digest: str
    """sha256 of the content, in hex: the name of the snapshot's directory."""
    source: str
    """Where it was made from, for people."""
    env: Mapping[str, str] = field(default_factory=dict)
    app: str = ""
    command: tuple[str, ...] = ()
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One running copy of a release. Written to the store before the process is started (so that a control plane that
    is killed in between finds it again by `id`), and kept for a while after its end with the reason."""

    id: str
    service: str
    release: str
    address: Address
    phase: Phase = Phase.STARTING
    since_at: float = 0.0
    """When it entered this phase."""
    created_at: float = 0.0
    pid: int = 0
    was_ready: bool = False
    failed: bool = False
    """It ended, or never began, against our will."""
    failures: int = 0
    """Readiness probes failed in a row."""
    zone: str = ""
    detail: str = ""
    """Why it is where it is: the reason and, after a crash, the last lines of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How many instances of each release of a service are wanted."""

    service: str
    sizes: Mapping[str, int]

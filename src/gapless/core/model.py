"""The vocabulary as frozen values: what the store holds and what the layers hand to each other.

Durations end in `_s` (seconds), moments in `_at` (seconds since the epoch). Weights are buckets out of 10,000, so that
a share of 1 % is 100 and every user has one stable place, its bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gapless.core.protect import Protect

BUCKETS = 10_000


class Phase(StrEnum):
    """Where an instance is in its life; `core.lifecycle` holds the allowed moves."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Requests that match belong to a service. The longest path prefix wins."""

    path: str = "/"
    host: str = "*"
    protect: Protect | None = None
    """Goes before the service's, policy by policy."""


class Strategy(StrEnum):
    CANARY = "canary"
    ROLLING = "rolling"


class SplitBy(StrEnum):
    """What decides which release answers: the user's bucket (sticky), or a fresh die for each request."""

    USER = "user"
    REQUEST = "request"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """How a service's releases are moved. `steps` are weights in buckets, rising, the last one 10,000."""

    strategy: Strategy = Strategy.CANARY
    by: SplitBy = SplitBy.USER
    steps: tuple[int, ...] = (100, 500, 2_500, BUCKETS)
    hold_s: float = 60.0
    """The least time at each step; promotion to the next one also needs enough samples."""
    min_samples: int = 100
    """Requests that the canary must have answered at a step before the next one."""
    alpha: float = 0.01
    """Greatest probability of rolling back a release that is as good as the stable one."""
    patience_s: float = 3600.0
    """A step that has found no evidence for so long is rolled back: no evidence never promotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What users are promised; the guard rails derive from it."""

    max_error_rate: float = 0.05
    max_p99_ratio: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The definition of a service, as `gapless.yaml` gives it and the store keeps it."""

    name: str
    app: str = ""
    """`module:attribute` of an ASGI app; empty when `command` is given."""
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
    """Probed for readiness; empty means that an accepted connection is enough (for `command` services)."""
    start_s: float = 30.0
    drain_s: float = 30.0
    timeout_s: float = 15.0
    """The gateway's deadline for one request, retries included."""
    rollout: RolloutPolicy = RolloutPolicy()
    objective: Objective = Objective()
    protect: Protect | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


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
    detail: str = ""
    """Why it is where it is: the reason and, after a crash, the last lines of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How many instances of each release of a service are wanted."""

    service: str
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The weights of a service's releases, out of 10,000 buckets.

    `weights` is ordered: the newcomer first, so that raising its share only ever adds users to it.
    `salt` names the rollout: another rollout hits other users first.
    """

    service: str
    stable: str
    weights: tuple[tuple[str, int], ...]
    by: SplitBy = SplitBy.USER
    salt: str = ""

    def release_of(self, bucket: int) -> str:
        """The release that answers a user in `bucket` (0…9999)."""
        edge = 0
        for release, weight in self.weights:
            edge += weight
            if bucket < edge:
                return release
        return self.stable


def bucket_of(user: str, salt: str) -> int:
    """The stable place of a user in 0…9999 for a rollout: the arithmetic of Envoy's hash policy (xxHash64, seed 0)."""
    import xxhash

    return int(xxhash.xxh64_intdigest(f"{salt}:{user}".encode(), 0)) % BUCKETS


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A place that may be asked now."""

    instance: str
    release: str
    address: Address
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTable:
    """All that a caller or a gateway needs to reach one service."""

    service: str
    split: Split
    endpoints: tuple[Endpoint, ...]
    routes: tuple[Route, ...] = ()
    timeout_s: float = 15.0
    protect: Protect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """The whole of what a data plane is told. `version` is the store's revision that it was computed from."""

    version: int
    services: tuple[ServiceTable, ...]


class RolloutState(StrEnum):
    STARTING = "starting"
    """Instances of the new release are being started; no user meets it yet."""
    SHIFTING = "shifting"
    """Users are being moved, step by step."""
    FINISHING = "finishing"
    """The winner has all the users; the other pool is being drained."""
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"

    @property
    def ended(self) -> bool:
        return self in (RolloutState.PROMOTED, RolloutState.ROLLED_BACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Users that were already counted, in bounded space: 32-bit hashes, only those below 2**(32 - level) once there are
    too many. What is left out depends on the user alone, so what is counted stays a fair sample."""

    hashes: tuple[int, ...] = ()
    level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the analysis has seen so far; it travels with the rollout so that a restart forgets nothing.

    `errors` and `slow` are the likelihood products of the two e-processes, one per assumed risk ratio, as logarithms.
    """

    errors: tuple[float, ...] = ()
    slow: tuple[float, ...] = ()
    until_at: float = 0.0
    """Everything before this moment has been counted."""
    canary_requests: int = 0
    canary_errors: int = 0
    stable_requests: int = 0
    stable_errors: int = 0
    step_requests: int = 0
    """Requests answered by the canary since the present step began."""
    step_stable: int = 0
    """Requests answered by the stable release since then."""
    users: Seen = Seen()
    """Users whose first error was counted."""
    slow_users: Seen = Seen()
    """Users whose first slow answer was counted."""
    looks: int = 0
    """Looks at answers lately (see `recent_canary`)."""
    slow_looks: int = 0
    """Looks that found slow answers of the canary lately: answers that wait behind one stall are not independent."""
    met: Seen = Seen()
    """Users who got an error from the canary."""
    users_met: int = 0
    """How many they are (an estimate above some hundreds; an error of an unknown user counts as one user)."""
    recent_canary: tuple[int, int] = (0, 0)
    """Requests and errors of the canary lately: halved now and then, so that the old fades."""
    recent_stable: tuple[int, int] = (0, 0)
    canary_latency: tuple[int, ...] = ()
    """Latencies of the same answers, as in `Window.latency`."""
    stable_latency: tuple[int, ...] = ()
    """The baseline; the last one known when the stable release no longer gets requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The movement of a service's split from one release to another."""

    number: int
    service: str
    before: str
    after: str
    policy: RolloutPolicy
    instances: int
    """Capacity asked for: neither pool goes below what its share of the users needs."""
    state: RolloutState = RolloutState.STARTING
    step: int = -1
    """Index into the plan (`rollout.plan.steps_for`) of the share that users now have; -1 before the first."""
    target: int = 0
    """Index of the step that instances are wanted for; ahead of `step` while they are awaited."""
    since_at: float = 0.0
    """When the present step (or state, or wait for instances) began."""
    applied_at: float = 0.0
    """When the gateway was first seen to have applied the present split; 0 = not yet."""
    started_at: float = 0.0
    shifted_at: float = 0.0
    """When the first user was moved; 0 if none was (a rolled-back rollout was then refused)."""
    decided_at: float = 0.0
    ended_at: float = 0.0
    paused: bool = False
    winner: str = ""
    """The release that gets all the users, once decided."""
    reason: str = ""
    log: str = ""
    """Last lines of the log of the instance that failed, when that is the reason."""
    evidence: Evidence = Evidence()

    @property
    def refused(self) -> bool:
        return self.winner == self.before and not self.shifted_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One recorded act: who, what, why, ticket; `numbers` are those behind an automatic decision."""

    number: int
    at: float
    who: str
    what: str
    service: str = ""
    why: str = ""
    ticket: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


HISTOGRAM_BOUNDS_S: tuple[float, ...] = tuple(0.0001 * 1.25**i for i in range(62))
"""Upper bounds of the latency buckets, 100 µs … 82 s, each 25 % above the one before: any quantile is right to 25 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one release of a service answered between two moments. `latency[i]` counts answers ≤ HISTOGRAM_BOUNDS_S[i]
    and above the bound before; the last entry counts those above every bound. `failed` names the user of each error in
    order of arrival ("" where none is known)."""

    requests: int = 0
    errors: int = 0
    failed: tuple[str, ...] = ()
    latency: tuple[int, ...] = ()
    tail: tuple[tuple[str, float], ...] = ()
    """User and seconds of the slowest answers, at least the slowest 2 %; empty when nobody keeps them. With them a slow
    user counts once, without them each slow answer counts."""

"""Every seam of Gapless on one page. The caller owns the interface; backends and their fakes pass the same conformance
suites (`gapless.testing`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from gapless.core.events import Event
    from gapless.core.model import Address, Instance, Release, RouteTable, Service, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key as it stood at a revision. `created`: the revision that made it; `revision`: the one that last wrote it."""

    key: str
    value: bytes
    revision: int
    created: int
    lease: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The entries below a prefix, by key, and the store's revision at which this was the truth."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Write a key. `expect`: None = whatever is there; 0 = must not exist; n = must be at revision n."""

    key: str
    value: bytes
    expect: int | None = None
    lease: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Remove a key; an absent one is no error unless `expect` says that it must exist."""

    key: str
    expect: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Only go on when the key is at this revision (0 = absent)."""

    key: str
    expect: int


Op = Put | Delete | Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a watch tells: a key was written (`value` is bytes) or removed (`value` is None) at `revision`."""

    key: str
    value: bytes | None
    revision: int


class Store(Protocol):
    """Versioned, watched keys. Every write raises the store's one revision by one; acknowledged means durable.

    Raises StoreClosed after `close`; StoreFull when nothing could be written; Conflict when an expectation fails.
    """

    async def get(self, key: str) -> Entry | None: ...
    async def list(self, prefix: str) -> Listing: ...
    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: str = "") -> int:
        """Returns the new revision. Raises Conflict, LeaseLost."""
        ...

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        """Returns the store's revision afterwards (unchanged when the key was absent)."""
        ...

    async def transact(self, *ops: Op) -> int:
        """All of it or nothing, at one revision, which is returned."""
        ...

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[tuple[Update, ...]]:
        """Every write below the prefix with a revision above `after`, in order, none missed, none twice; the writes of
        one revision come together. Ends when the store closes. Raises Compacted when `after` is too old."""
        ...

    async def history(self, key: str, *, limit: int = 100) -> Sequence[Update]:
        """The writes of a key, newest first, as far back as they are kept."""
        ...

    async def grant(self, ttl_s: float) -> str:
        """A lease: keys put with it vanish (as deletes that a watch sees) when it is not renewed for `ttl_s`.
        After a restart of the store every lease starts its time anew."""
        ...

    async def renew(self, lease: str) -> None:
        """Raises LeaseLost."""
        ...

    async def revoke(self, lease: str) -> None:
        """Removes its keys at once; an unknown lease is no error."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What truly runs under an instance's id, whoever started it."""

    id: str
    pid: int
    alive: bool
    """False: the process has ended, and `detail` tells how."""
    detail: str = ""


class Fleet(Protocol):
    """Where instances run. Calls are idempotent by instance id, so that they can be repeated after a crash."""

    async def snapshot(self, service: Service, source: Path, version: str, env: Mapping[str, str]) -> Release:
        """Make the immutable copy that instances run from. Raises ReleaseError and leaves nothing half-made."""
        ...

    async def allocate(self) -> Address:
        """Where the next instance can be asked; nobody listens there now."""
        ...

    async def start(self, instance: Instance, release: Release, service: Service) -> int:
        """Start its process and return the pid; readiness is the caller's to probe. Raises InstanceFailed."""
        ...

    async def stop(self, instance: Instance, drain_s: float) -> None:
        """SIGTERM, wait for it to drain, SIGKILL what is left after `drain_s`; returns when nothing is left. No error
        when it is already gone."""
        ...

    async def reload(self, instance: Instance) -> str:
        """Hot restart in place; returns what happened, for people. Raises ReloadRefused, Busy."""
        ...

    async def measure(self, instance: Instance) -> Window | None:
        """What it has answered since it began, by its own count; None when it does not tell."""
        ...

    async def scrape(self, instance: Instance) -> str:
        """Its metrics, as OpenMetrics text; empty when it does not tell."""
        ...

    async def spans(self, instance: Instance, after: int) -> Mapping[str, Any]:
        """The spans that have ended since the number `after`, as `{"last": number, "spans": […]}`; empty when it has
        none."""
        ...

    async def list(self) -> Sequence[Running]:
        """Everything that runs or has ended since it was last forgotten, also what an earlier control plane started."""
        ...

    async def forget(self, instance: str) -> None:
        """Remove what is kept of an ended instance (sockets, records), but not its log."""
        ...

    def tail(self, instance: str, lines: int = 20) -> str:
        """The last lines of its log; empty when there is none."""
        ...

    async def prune(self, keep: set[str]) -> tuple[str, ...]:
        """Remove the snapshots whose digests are not in `keep`; returns theirs. Nothing may run from them."""
        ...

    async def close(self) -> None:
        """Watch no longer; the instances go on."""
        ...

    def changed(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Ticks when a process has ended, so that the supervisor need not wait for its next look."""
        ...


class Traffic(Protocol):
    """A data plane."""

    async def apply(self, table: RouteTable) -> int:
        """Make requests follow the table; returns its version once the data plane has acknowledged it. An endpoint that
        is missing or `draining` gets no new request afterwards. Raises TrafficRefused with the data plane's own words;
        it then goes on with the table before."""
        ...


class Metrics(Protocol):
    """What releases answered, as seen from in front of them."""

    async def window(self, service: str, release: str, since_at: float, until_at: float) -> Window: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A question to the recorded metrics, in terms that the embedded recorder and PromQL can both answer.

    What an instance counts carries the labels `service`, `release` and `instance` besides its own.
    """

    metric: str
    """As scraped: a counter with its `_total`, a histogram without suffix."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Labels that must have these values; "" is for a label that is not there."""
    by: tuple[str, ...] = ()
    """One series for each combination of these labels; (): one of everything together."""
    of: Literal["value", "max", "rate", "increase", "quantile", "mean"] = "value"
    """`value` and `max`: the sum, or the largest, of the last values of what is put together. `rate` per second and
    `increase`: of counters, and of a histogram's count (any name that does not end in `_total`). `quantile` and `mean`:
    of histograms, in their unit."""
    q: float = 0.99
    over_s: float = 60.0
    """What rate, increase, quantile and mean look back on, and how old a last value may be. Where less is recorded,
    for instance because it is long ago, as far back as is needed for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points (seconds since the epoch, value), oldest first. What was not recorded is left out, and is not 0. `labels`
    are those asked for by `Selection.by`, without those that are not there."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


class Signals(Protocol):
    """The metrics of the last hours, of all services: recorded by us, or by a Prometheus."""

    async def series(self, selection: Selection, since_at: float, until_at: float, step_s: float) -> Sequence[Series]:
        """Points at `since_at`, then every `step_s` until `until_at`, by labels. Nothing recorded: no series. Raises
        SignalsUnavailable."""
        ...

    async def latest(self, selection: Selection, at: float | None = None) -> Sequence[Series]:
        """One point each: now, or at a moment. Raises SignalsUnavailable."""
        ...


class Queries(Protocol):
    """Whoever evaluates PromQL."""

    async def instant(self, query: str) -> float | None:
        """The one value of an expression now; None when it has none, or is not a number. Raises SignalsUnavailable,
        also when there are several."""
        ...


class Hook(Protocol):
    """A subscriber of events. It must not block; what it raises is logged and goes no further."""

    def __call__(self, event: Event, /) -> None: ...


class Process(Protocol):
    """A child process."""

    pid: int

    async def wait(self) -> int: ...
    def kill(self, signal: int) -> None: ...


class World(Protocol):
    """The only clock, dice and processes."""

    def now(self) -> float:
        """Seconds on a clock that never jumps; its zero means nothing."""
        ...

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None: ...
    def pause(self, seconds: float) -> None:
        """`sleep` for code without a loop: blocks the thread."""
        ...

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def bits(self, count: int) -> int:
        """Uniform in 0 … 2**count - 1, without a system call; not secret."""
        ...

    def token(self) -> str:
        """Eight hexadecimal digits that nobody else has."""
        ...

    def free_port(self, host: str) -> int: ...

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start a process in a session of its own, stdin closed, output appended to a file. Raises OSError."""
        ...

    def after(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call later; returns the way to cancel."""
        ...

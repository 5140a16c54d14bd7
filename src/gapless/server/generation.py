"""The words of `decide`: the state of a server's generations of workers, what may happen, and what may be done.

A generation is a set of `wanted` workers that were started for the same load of the code. Moments and durations are
seconds on the world's monotonic clock.

All of them are NamedTuples: the master is on the way of every start, and a dataclass takes eight times as long to
define.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

NEVER = float("inf")


class Phase(StrEnum):
    STARTING = "starting"
    PREPARED = "prepared"
    """The application is ready; it accepts nothing yet."""
    COMMITTED = "committed"
    """Told to accept, not yet heard to do so."""
    SERVING = "serving"
    LEAVING = "leaving"
    """Accepts nothing new; ends by itself, or at its deadline."""


class Limits(NamedTuple):
    """Seconds that each stage may take. Each adds a margin to what the worker itself was told, so that a worker which
    keeps its own limits is never killed."""

    start_s: float = 31.0
    commit_s: float = 5.0
    leave_s: float = 32.0
    silent_s: float = 30.0


class Worker(NamedTuple):
    key: int
    generation: int
    slot: int
    phase: Phase
    deadline: float
    beat_at: float
    serving_at: float = NEVER


class Slot(NamedTuple):
    """A place for one worker of the current generation. `retry_at` is when an empty one is to be filled again."""

    failures: int = 0
    retry_at: float = NEVER


class State(NamedTuple):
    wanted: int
    limits: Limits
    abreast: int = 1
    """How many workers of a coming generation may load their code at the same time while another one serves: loading
    takes a core each, and the answers of the serving ones must not wait for it."""
    current: int = 0
    """0 until the first generation serves."""
    coming: int = 0
    """0 when none is on its way."""
    last: int = 0
    keys: int = 0
    began_at: float = 0.0
    prepared_at: float = 0.0
    workers: tuple[Worker, ...] = ()
    slots: tuple[Slot, ...] = ()
    leaving: bool = False
    code: int = 0
    reason: str = ""
    ended: bool = False


class Boot(NamedTuple):
    """Start the first generation."""


class Reload(NamedTuple):
    """Start another generation and let it take over."""


class Prepared(NamedTuple):
    key: int


class Serving(NamedTuple):
    key: int


class Beat(NamedTuple):
    key: int


class Left(NamedTuple):
    """A worker leaves by its own decision (it was sent SIGTERM)."""

    key: int


class Exited(NamedTuple):
    """Its process is gone. `code` is the exit code for the whole server, should this be the end of it."""

    key: int
    reason: str
    code: int = 1


class Stop(NamedTuple):
    signal: int


class Tick(NamedTuple):
    """The moment that `due` named has come."""


Event = Boot | Reload | Prepared | Serving | Beat | Left | Exited | Stop | Tick


class Start(NamedTuple):
    key: int
    generation: int


class Commit(NamedTuple):
    key: int


class Retire(NamedTuple):
    """Accept nothing new, finish, exit: others serve on. Once more: wait less for silent clients."""

    key: int


class Drain(NamedTuple):
    """The whole server ends: announce it, then as Retire."""

    key: int


class Kill(NamedTuple):
    key: int
    reason: str


class Replaced(NamedTuple):
    """The generation serves; `before` is the one that leaves (0: this was the first)."""

    generation: int
    before: int
    prepared_s: float
    serving_s: float


class Refused(NamedTuple):
    """The coming generation is given up. `key` is the worker at fault, 0 if none is."""

    generation: int
    reason: str
    key: int


class TooBusy(NamedTuple):
    reason: str


class Restart(NamedTuple):
    """A worker of the current generation was lost; it is replaced in `delay_s`."""

    key: int
    reason: str
    delay_s: float


class Finish(NamedTuple):
    code: int
    reason: str


Action = Start | Commit | Retire | Drain | Kill | Replaced | Refused | TooBusy | Restart | Finish

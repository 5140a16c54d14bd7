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
    CARRYING = "carrying"
    """Prepared, and offered the state of the worker whose place it takes."""
    COMMITTED = "committed"
    """Told to accept, not yet heard to do so."""
    SERVING = "serving"
    PAUSED = "paused"
    """Replaced, accepts nothing, and could at once serve again: the newcomers have yet to stand the test of traffic."""
    LEAVING = "leaving"
    """Accepts nothing new; ends by itself, or at its deadline."""


LOADING = (Phase.STARTING, Phase.PREPARED, Phase.CARRYING)
"""It has accepted nothing, and can be killed without loss."""


class Limits(NamedTuple):
    """Seconds that each stage may take. Each adds a margin to what the worker itself was told, so that a worker which
    keeps its own limits is never killed."""

    start_s: float = 31.0
    commit_s: float = 5.0
    leave_s: float = 32.0
    silent_s: float = 30.0
    dump_s: float = 0.5
    """What a blocked worker gets to write its stacks before it is killed."""
    carry_s: float = 1.0
    """The longest that a hand-over waits for state."""
    bake_s: float = 0.0
    """How long the former generation stays ready to return; 0: it leaves at once."""
    crashes: int = 0
    """So many in a row give a slot up; 0: never."""


class Recycling(NamedTuple):
    """When a worker has done enough and is replaced by a fresh one; 0: never for that."""

    requests: int = 0
    age_s: float = 0.0
    memory: int = 0
    """Bytes of resident memory."""


class Worker(NamedTuple):
    key: int
    generation: int
    slot: int
    phase: Phase
    deadline: float
    beat_at: float
    serving_at: float = NEVER
    accepting: bool = False
    """It may still take a new connection: told to, and not yet heard to have stopped."""
    unready: str = ""
    """Why its checks do not pass."""
    carries: bool = False
    """Its application declares state that it would take over."""
    replaces: int = 0
    """The worker that is recycled, and leaves when this one serves."""
    worn: str = ""
    """Why it has done enough, and is to be recycled."""
    fault: str = ""
    """Why it is about to be killed."""


class Slot(NamedTuple):
    """A place for one worker of the current generation. `retry_at` is when an empty one is to be filled again."""

    failures: int = 0
    retry_at: float = NEVER
    given_up: str = ""
    """Why it is not filled any more."""
    code: int = 0
    """The exit code for the whole server, should this be the end of it."""


class State(NamedTuple):
    wanted: int
    limits: Limits
    abreast: int = 1
    """How many workers may load their code at the same time while others serve: loading takes a core each, and the
    answers of the serving ones must not wait for it."""
    recycling: Recycling = Recycling()
    current: int = 0
    """0 until the first generation serves."""
    coming: int = 0
    """0 when none is on its way."""
    before: int = 0
    """The generation that was replaced, until the reload is done; 0 when none is."""
    back: int = 0
    """The generation that did not stand its bake time, until the former one serves again; 0 when none."""
    last: int = 0
    keys: int = 0
    stage_at: float = 0.0
    """When the last stage of a reload ended."""
    announced: int = 0
    """The last generation that was said to be prepared."""
    bake_until: float = NEVER
    recycle_at: float = 0.0
    """Nobody is recycled earlier: the last replacement did not come to serve."""
    recycle_failures: int = 0
    scaling: bool = False
    workers: tuple[Worker, ...] = ()
    slots: tuple[Slot, ...] = ()
    leaving: bool = False
    code: int = 0
    reason: str = ""
    """Why the server ends; while it turns back, why it does."""
    ended: bool = False


class Boot(NamedTuple):
    """Start the first generation."""


class Reload(NamedTuple):
    """Start another generation and let it take over."""


class Scale(NamedTuple):
    """Have so many workers from now on."""

    wanted: int


class Prepared(NamedTuple):
    key: int
    carries: bool = False


class Carried(NamedTuple):
    """It has taken over what state there was; or there was none, or it was lost."""

    key: int


class Serving(NamedTuple):
    key: int


class Stopped(NamedTuple):
    """It accepts no more."""

    key: int


class Beat(NamedTuple):
    key: int
    unready: str = ""
    requests: int = 0
    memory: int = 0


class Tired(NamedTuple):
    """A worker is to leave, because it was sent SIGTERM, say, and does when it is told to."""

    key: int
    why: str = "it was sent SIGTERM"


class Left(NamedTuple):
    """A worker leaves by its own decision: it was sent SIGTERM, and has waited in vain or was sent another one."""

    key: int


class Exited(NamedTuple):
    """Its process is gone. `code` is the exit code for the whole server, should this be the end of it."""

    key: int
    reason: str
    code: int = 1


class Stop(NamedTuple):
    signal: int


class Resume(NamedTuple):
    """Go on after an earlier master; `there` are the keys of the workers that it started."""

    there: frozenset[int]


class Tick(NamedTuple):
    """The moment that `due` named has come."""


Event = (
    Boot | Reload | Scale | Prepared | Carried | Serving | Stopped | Beat | Tired | Left | Exited | Stop | Resume | Tick
)


class Start(NamedTuple):
    key: int
    generation: int
    slot: int


class Carry(NamedTuple):
    """Offer `key` the state of the worker `source`; Carried must follow, whatever comes of it."""

    key: int
    source: int


class Commit(NamedTuple):
    key: int


class Pause(NamedTuple):
    """Accept nothing new, and stay as you are."""

    key: int


class Recall(NamedTuple):
    """Accept again: the successors have failed."""

    key: int


class Retire(NamedTuple):
    """Accept nothing new, finish, exit: others serve on. Once more: wait less for silent clients."""

    key: int


class Drain(NamedTuple):
    """The whole server ends: announce it, then as Retire."""

    key: int


class Dump(NamedTuple):
    """Let it write the stacks of its threads: its loop is blocked, and it will be killed."""

    key: int
    reason: str


class Kill(NamedTuple):
    key: int
    reason: str


class Stage(NamedTuple):
    """A stage of a reload (of the start, for the first generation) has ended `took_s` after the one before."""

    generation: int
    name: str
    took_s: float


class Replaced(NamedTuple):
    """The reload is done: nobody but this generation accepts. `before` is the one that leaves (0: this was the
    first)."""

    generation: int
    before: int


class Return(NamedTuple):
    """The generation has failed in its bake time, because of worker `key`; the former one serves again. Refused follows
    when it does."""

    generation: int
    before: int
    reason: str
    key: int


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


class GivenUp(NamedTuple):
    """A worker crashed so often that its slot stays empty until the next reload."""

    key: int
    reason: str
    left: int
    """How many slots are still kept filled."""


class Recycle(NamedTuple):
    """`key` is being replaced by a fresh one."""

    key: int
    reason: str


class Recycled(NamedTuple):
    """The fresh one serves, and `key` leaves."""

    key: int


class NotRecycled(NamedTuple):
    """The fresh one did not come to serve, and `key` goes on; tried again in `delay_s`."""

    key: int
    reason: str
    delay_s: float


class Scaled(NamedTuple):
    """As many as wanted serve."""

    wanted: int


class Finish(NamedTuple):
    code: int
    reason: str


Action = (
    Start
    | Carry
    | Commit
    | Pause
    | Recall
    | Retire
    | Drain
    | Dump
    | Kill
    | Stage
    | Replaced
    | Return
    | Refused
    | TooBusy
    | Restart
    | GivenUp
    | Recycle
    | Recycled
    | NotRecycled
    | Scaled
    | Finish
)

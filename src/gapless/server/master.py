"""The process that keeps its pid: it owns the listeners and the admin socket, starts the workers, replaces them, and
does what `decide` says. It never touches a request, and imports little: it is on the way of every start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gapless.core.errors import AppError, Busy, GaplessError, NotReady, ReloadRefused
from gapless.server import decide as deciding
from gapless.server import generation as g
from gapless.server import handover
from gapless.server.archive import Archive
from gapless.server.bind import Listener
from gapless.server.child import Child
from gapless.server.reaper import is_first, reap_strangers
from gapless.server.settings import Settings, task_of

if TYPE_CHECKING:
    from gapless.core.ports import World  # its types take a third of the time that a start may take

_log = logging.getLogger("gapless.server")

START_MARGIN_S = 1.0
LEAVE_MARGIN_S = 2.0
"""What a worker gets beyond the limit that it keeps by itself, before it is killed."""


class Refusal(ReloadRefused):
    """The new code did not become ready; the old code carries on."""

    remedy = "Nothing has changed for the clients. Mend the code and reload again."

    def __init__(self, generation: int, reason: str, log: Sequence[str]) -> None:
        super().__init__("\n".join([f"generation {generation} was refused: {reason}", *log]))
        self.generation, self.reason, self.log = generation, reason, list(log)


class Reloaded(NamedTuple):
    """What a reload did: seconds from its start to PREPARED, and from there to SERVING."""

    generation: int
    before: int
    prepared_s: float
    serving_s: float
    pids: list[int]


class Master:
    """`run` is the whole life. `ready` is called once, when the first generation serves."""

    def __init__(
        self, settings: Settings, listeners: Sequence[Listener], world: World, ready: Callable[[], None]
    ) -> None:
        self.settings = settings
        self.children: dict[int, Child] = {}
        self.archive = Archive()
        limits = g.Limits(start_s=settings.start_s + START_MARGIN_S, leave_s=settings.drain_s + LEAVE_MARGIN_S)
        self.state = g.State(settings.workers, limits, max(1, len(os.sched_getaffinity(0)) - 1))
        self._listeners = list(listeners)
        self._world = world
        self._ready = ready
        self._events: list[g.Event] = []
        self._deciding = False
        self._cancel_tick: Callable[[], None] = lambda: None
        self._outcome: asyncio.Future[Reloaded] | None = None
        self._busy = ""
        self._blame: list[str] = []
        self._acts: dict[type, Callable[[Any], None]] = {
            g.Start: self._start,
            g.Commit: lambda action: self._send(action.key, handover.Commit()),
            g.Retire: lambda action: self._send(action.key, handover.Retire(settings.drain_s)),
            g.Drain: self._drain,
            g.Kill: self._kill,
            g.Replaced: self._replaced,
            g.Refused: self._refused,
            g.TooBusy: self._too_busy,
            g.Restart: self._restart,
            g.Finish: self._finish,
        }

    async def run(self) -> int:
        """Serve until told to stop; returns the exit code. Raises AppError or NotReady when the first generation never
        served."""
        loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[g.Finish] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number)
        loop.add_signal_handler(signal.SIGUSR2, self._reload_by_signal)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up, os.isatty(0))
        if is_first():
            loop.add_signal_handler(signal.SIGCHLD, self._reap_orphans)
        self._feed(g.Boot())
        try:
            end = await self._finished
        finally:
            self._cancel_tick()
            self._close_listeners()
        if self.state.current or end.code not in (AppError.exit_code, NotReady.exit_code):
            return end.code
        kind = NotReady if end.code == NotReady.exit_code else AppError
        raise kind("\n".join([end.reason, *self._blame]))

    @property
    def serving(self) -> list[Child]:
        """The workers that accept requests."""
        keys = [worker.key for worker in self.state.workers if worker.phase is g.Phase.SERVING]
        return [self.children[key] for key in keys if key in self.children]

    async def reload(self) -> Reloaded:
        """Start a new generation and wait until it serves. Raises Busy, Refusal."""
        self._busy = ""
        outcome: asyncio.Future[Reloaded] = asyncio.get_running_loop().create_future()
        before, self._outcome = self._outcome, outcome
        self._feed(g.Reload())
        if self._busy:
            self._outcome = before
            raise Busy(self._busy)
        return await asyncio.shield(outcome)

    def stop(self, number: int) -> None:
        """Drain; the second time, end at once."""
        _log.info("%s: %s", signal.Signals(number).name, "ending at once" if self.state.leaving else "draining")
        self._feed(g.Stop(number))

    def _hung_up(self, had_terminal: bool) -> None:
        """SIGHUP asks for a reload, unless it says that the terminal that we were started on is gone."""
        if had_terminal and not os.isatty(0):
            self.stop(signal.SIGHUP)
        else:
            self._reload_by_signal()

    def _reload_by_signal(self) -> None:
        task = asyncio.ensure_future(self.reload())
        task.add_done_callback(_log_outcome)

    def _feed(self, event: g.Event) -> None:
        """Decide and act. An event that an action brings about waits its turn."""
        self._events.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._events:
                self.state, actions = deciding.decide(self.state, self._events.pop(0), self._world.now())
                for action in actions:
                    self._acts[type(action)](action)
        finally:
            self._deciding = False
        self._arm()

    def _arm(self) -> None:
        self._cancel_tick()
        due = deciding.due(self.state)
        if due < g.NEVER and not self.state.ended:
            self._cancel_tick = self._world.after(max(due - self._world.now(), 0), lambda: self._feed(g.Tick()))

    # What is done.

    def _start(self, action: g.Start) -> None:
        task = task_of(self.settings, action.generation)
        child = Child(action.key, task, [one.sock for one in self._listeners], self._heard, self._ended)
        try:
            child.start()
        except OSError as error:
            self._feed(g.Exited(action.key, f"cannot start a worker: {error}", AppError.exit_code))
            return
        self.children[action.key] = child
        _log.info("worker %d of generation %d started", child.pid, action.generation)

    def _send(self, key: int, message: handover.Message) -> None:
        if key in self.children:
            self.children[key].send(message)

    def _drain(self, action: g.Drain) -> None:
        """The workers hold their own copies of the listeners, and accept as long as the drain wants."""
        self._close_listeners()
        self._send(action.key, handover.Drain(self.settings.drain_s))

    def _kill(self, action: g.Kill) -> None:
        if action.key in self.children:
            child = self.children[action.key]
            _log.warning("worker %d is killed: %s", child.pid, action.reason)
            child.kill()

    def _replaced(self, action: g.Replaced) -> None:
        pids = [child.pid for child in self.serving]
        took = f"prepared in {action.prepared_s:.2f} s, serving {action.serving_s * 1000:.0f} ms later"
        _log.info("generation %d serves with workers %s: %s", action.generation, pids, took)
        if not action.before:
            self._ready()
        elif self._outcome and not self._outcome.done():
            self._outcome.set_result(Reloaded(*action, pids))
        if action.before:
            self.archive.reloads["done"] += 1

    def _refused(self, action: g.Refused) -> None:
        child = self.children.get(action.key)
        if not self.state.current:
            self._blame = child.told if child else []  # what it wrote is on our own output already; `run` raises
            return
        refusal = Refusal(action.generation, action.reason, child.log() if child else [])
        _log.error("%s", refusal)
        self.archive.reloads["refused"] += 1
        if self._outcome and not self._outcome.done():
            self._outcome.set_exception(refusal)

    def _too_busy(self, action: g.TooBusy) -> None:
        self._busy = action.reason

    def _restart(self, action: g.Restart) -> None:
        self.archive.restarts += 1
        when = f"in {action.delay_s:g} s" if action.delay_s else "at once"
        _log.error("a worker was lost: %s; it is replaced %s", action.reason, when)

    def _finish(self, action: g.Finish) -> None:
        if not self._finished.done():
            self._finished.set_result(action)

    # What is heard.

    def _heard(self, child: Child, message: handover.Message) -> None:
        match message:
            case handover.Prepared():
                self._feed(g.Prepared(child.key))
            case handover.Serving():
                self._feed(g.Serving(child.key))
            case handover.Leaving():
                self._feed(g.Left(child.key))
            case handover.Beat():
                self._feed(g.Beat(child.key))

    def _ended(self, child: Child) -> None:
        self.archive.add(child.samples)
        self._feed(g.Exited(child.key, child.why(), child.code))
        del self.children[child.key]
        if is_first():
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        reap_strangers([child.pid for child in self.children.values()])

    def _close_listeners(self) -> None:
        """Nobody must be able to connect into a queue that nobody empties any more."""
        for listener in self._listeners:
            listener.close()


def _log_outcome(task: asyncio.Future[Reloaded]) -> None:
    """A reload by signal has nobody who waits for its answer; a refusal was logged where it happened."""
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, Busy):
        _log.warning("reload ignored: %s", error.what)
    elif error is not None and not isinstance(error, GaplessError):
        _log.error("reload failed", exc_info=error)

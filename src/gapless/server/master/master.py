"""The process that starts the workers, replaces them, and does what `decide` says. It never touches a request, and
imports little: it is on the way of every start. Whatever it opens or learns its keeper has as well, so that it can be
killed at any moment: the next master goes on from there (`adopt`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gapless.core.errors import AppError, Busy, ConfigError, NotReady
from gapless.server.connections import queue as connection_queue
from gapless.server.connections.queue import Ends
from gapless.server.early import Early
from gapless.server.generations import decide as deciding
from gapless.server.generations import generation as g
from gapless.server.generations import succession
from gapless.server.generations.roster import busy, of
from gapless.server.handover import handover
from gapless.server.listen.bind import Listener
from gapless.server.master import upgrade
from gapless.server.master.adopt import adopt
from gapless.server.master.archive import Archive
from gapless.server.master.carries import Carries
from gapless.server.master.child import Child
from gapless.server.master.keep import QUEUE, Keep, Legacy, listening
from gapless.server.master.limits import abreast, cpu_of, limits_of, recycling_of
from gapless.server.master.orders import Orders
from gapless.server.master.outcome import HANDED_ON, Refusal, Reloaded
from gapless.server.master.record import Record
from gapless.server.master.said import event_of
from gapless.server.master.scaling import Scaling
from gapless.server.master.spans import Spans
from gapless.server.settings import Settings, task_of
from gapless.server.systemd.notify import manager

if TYPE_CHECKING:
    from gapless.core.ports import World  # its types take a third of the time that a start may take

_log = logging.getLogger("gapless.server")


_KINDS = {kind.exit_code: kind for kind in (AppError, NotReady, ConfigError)}
"""What a worker may fail of before it serves."""


def _untold(name: str, took_s: float) -> None:
    """Nobody listens."""


class Master:
    """`run` is the whole life. `ready` is called once, when the first generation serves. `early`: the first worker."""

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        queue: Ends,
        world: World,
        ready: Callable[[], None],
        keep: Keep,
        early: Early | None = None,
    ) -> None:
        self.settings = settings
        self.children: dict[int, Child] = {}
        self.archive = Archive()
        self.spans = Spans()
        self.state = g.State(settings.workers, limits_of(settings), abreast(), recycling_of(settings))
        self._listeners = list(listeners)
        self._queue = queue
        self._world = world
        self._ready = ready
        self.keep = keep
        self._early = early
        self.manager = manager(os.environ)
        keep.changed.append(self._moved)
        self.orders = Orders(self, world)
        self._record = Record(keep)
        self._events: list[g.Event] = []
        self._deciding = False
        self._cancel_tick: Callable[[], None] = lambda: None
        self._outcome: asyncio.Future[Reloaded] | None = None
        self._blame: list[str] = []
        self._returned = 0
        self._stages: dict[str, float] = {}
        self._told: Callable[[str, float], None] = _untold
        self.scaling = Scaling(self)
        self.carries = Carries(self)
        self._acts: dict[type, Callable[[Any], None]] = {
            g.Start: self._start,
            g.Commit: lambda action: self._send(action.key, handover.Commit()),
            g.Carry: self.carries.begin,
            g.Pause: lambda action: self._send(action.key, handover.Pause()),
            g.Recall: lambda action: self._send(action.key, handover.Recall()),
            g.Retire: lambda action: self._send(action.key, handover.Retire(settings.drain_s)),
            g.Drain: self._drain,
            g.Dump: self._dump,
            g.Kill: self._kill,
            g.Stage: self._stage,
            g.Replaced: self._replaced,
            g.Return: self._return,
            g.Refused: self._refused,
            g.TooBusy: lambda action: _log.warning("ignored: %s", action.reason),
            g.Restart: self._restart,
            g.GivenUp: self._given_up,
            g.Recycle: self._recycle,
            g.Recycled: self._recycled,
            g.NotRecycled: self._not_recycled,
            g.Scaled: self.scaling.done,
            g.Finish: self._finish,
        }

    async def run(self, legacy: Legacy | None = None) -> int:
        """Serve until told to stop; returns the exit code. `legacy` is what an earlier master left. Raises AppError,
        NotReady or ConfigError when the first generation never served."""
        self._finished: asyncio.Future[g.Finish] = asyncio.get_running_loop().create_future()
        self.keep.begin(self.orders.obey, self._reaped, self.settings.heartbeat_s)
        beside = [asyncio.ensure_future(one) for one in (self._watch_files(), self.manager.beat(self._world))]
        if legacy:
            adopt(self, legacy)
        else:
            self.orders.had_terminal = os.isatty(0)
            self._hold()
            self.feed(g.Boot())
        gc.collect()
        gc.freeze()
        end = await self._finished
        for one in beside:
            one.cancel()
        if end.code == HANDED_ON:
            return HANDED_ON
        self._cancel_tick()
        self._close_listeners()
        self.keep.drop(QUEUE)
        connection_queue.close(self._queue)
        kind = _KINDS.get(end.code)
        if kind is None:
            return end.code
        raise kind("\n".join([end.reason, *self._blame]))

    def _hold(self) -> None:
        for number, listener in enumerate(self._listeners):
            self.keep.hold(listening(number), [listener.sock.fileno()])
        self.keep.hold(QUEUE, [end.fileno() for end in self._queue])

    async def _watch_files(self) -> None:
        if self.settings.reload_on:
            from gapless.server.master.reload_on import reload_on

            await reload_on(self.settings.reload_on, self.reload, self._world)

    @property
    def serving(self) -> list[Child]:
        """The workers that accept requests."""
        keys = [worker.key for worker in self.state.workers if worker.phase is g.Phase.SERVING]
        return [self.children[key] for key in keys if key in self.children]

    async def reload(self, told: Callable[[str, float], None] = _untold) -> Reloaded:
        """Start a new generation and wait until nobody else accepts and it has stood its bake time. `told` hears of
        each stage that has ended, and of the seconds that it took. Raises Busy, Refusal."""
        if why := busy(self.state):
            raise Busy(why)
        self._outcome, self._told = asyncio.get_running_loop().create_future(), told
        outcome = self._outcome
        told("starting", 0.0)
        self.manager.reloading(f"starting generation {self.state.last + 1}", self._world.now())
        self.feed(g.Reload())
        return await asyncio.shield(outcome)

    def leave(self) -> None:
        """In favour of another master, which goes on with everything."""
        self._finish(g.Finish(HANDED_ON, ""))

    def stop(self, number: int) -> None:
        """Drain; the second time, end at once."""
        how = "ending at once" if self.state.leaving else "draining"
        _log.info("%s: %s", signal.Signals(number).name, how)
        self.manager.stopping(how)
        self.feed(g.Stop(number))

    def report(self) -> None:
        """Let the service manager know how we stand."""
        if not self.state.leaving:
            workers = len(self.serving)
            words = f"generation {self.state.current} serves with {workers} worker{'s' * (workers != 1)}"
            self.manager.ready(self.keep.pid, words)

    def _moved(self) -> None:
        self.manager.moved(self.keep.pid)

    def feed(self, event: g.Event) -> None:
        """Decide, save and act. An event that an action brings about waits its turn."""
        self._events.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._events:
                self.state, actions = deciding.decide(self.state, self._events.pop(0), self._world.now())
                self._save()
                for action in actions:
                    self._acts[type(action)](action)
        finally:
            self._deciding = False
        self._save()
        self._arm()

    def _save(self) -> None:
        pids = {key: child.pid for key, child in self.children.items()}
        self._record.save(self.state, pids, self.orders.stops, self.orders.had_terminal)

    def save_archive(self) -> None:
        """The counters that have been shown, and those of workers that have ended."""
        self.keep.save("archive", self.archive.as_plain())

    def _arm(self) -> None:
        self._cancel_tick()
        due = deciding.due(self.state)
        if due < g.NEVER and not self.state.ended:
            self._cancel_tick = self._world.after(max(due - self._world.now(), 0), lambda: self.feed(g.Tick()))

    # What is done.

    def _start(self, action: g.Start) -> None:
        child = self.make_child(action.key, action.generation, action.slot)
        early, self._early = self._early, None
        try:
            if early:
                child.take_on(early)
            else:
                child.start()
        except OSError as error:
            self.feed(g.Exited(action.key, f"cannot start a worker: {error}", AppError.exit_code))
            return
        self.children[action.key] = child
        _log.info("worker %d of generation %d started", child.pid, action.generation)

    def make_child(self, key: int, generation: int, slot: int) -> Child:
        """Neither started nor adopted yet."""
        settings = self.settings._replace(workers=self.state.wanted)
        bakes = bool(settings.bake_s and self.state.current and generation == self.state.coming)
        task = task_of(settings, generation, cpu_of(settings, slot), bakes=bakes)
        return Child(key, task, [one.sock for one in self._listeners], self._queue, self._heard, self._ended, self.keep)

    def _send(self, key: int, message: handover.Message) -> None:
        if key in self.children:
            self.children[key].send(message)

    def _drain(self, action: g.Drain) -> None:
        """The workers hold their own copies of the listeners, and accept as long as the drain wants."""
        self._close_listeners()
        self._send(action.key, handover.Drain(self.settings.drain_s))

    def _dump(self, action: g.Dump) -> None:
        if action.key in self.children:
            child = self.children[action.key]
            _log.error("worker %d writes the stacks of its threads and is killed: %s", child.pid, action.reason)
            child.dump()

    def _kill(self, action: g.Kill) -> None:
        if action.key in self.children:
            child = self.children[action.key]
            _log.warning("worker %d is killed: %s", child.pid, action.reason)
            child.kill()

    def _stage(self, action: g.Stage) -> None:
        self._stages[action.name] = action.took_s
        self._told(action.name, action.took_s)

    def _replaced(self, action: g.Replaced) -> None:
        pids = [child.pid for child in self.serving]
        stages, self._stages = self._stages, {}
        took = ", ".join(f"{name} {took_s * 1000:.0f} ms" for name, took_s in stages.items())
        _log.info("generation %d serves with workers %s: %s", action.generation, pids, took)
        self.report()
        if not action.before:
            self.manager.store([one.sock.fileno() for one in self._listeners if one.sock.family != socket.AF_UNIX])
            self._ready()
        elif self._outcome and not self._outcome.done():
            self._outcome.set_result(Reloaded(*action, stages, pids))
        if action.before:
            for worker in of(self.state, action.generation):
                self._send(worker.key, handover.Settled())
            for worker in of(self.state, action.before):
                self._send(worker.key, handover.Parted())
            self.archive.reloads["done"] += 1
            self.save_archive()
            self._considering = asyncio.ensure_future(upgrade.consider(self))

    def _return(self, action: g.Return) -> None:
        child = self.children.get(action.key)
        self._blame = child.log() if child else []
        self._returned = action.generation
        words = "generation %d has failed in its bake time: %s; generation %d serves again"
        _log.error(words, action.generation, action.reason, action.before)

    def _refused(self, action: g.Refused) -> None:
        child = self.children.get(action.key)
        if not self.state.current:
            self._blame = child.told if child else []  # what it wrote is on our own output already; `run` raises
            return
        log, served = child.log() if child else self._blame, action.generation == self._returned
        refusal = Refusal(action.generation, action.reason, log, served=served)
        _log.error("%s", refusal)
        self.report()
        self._stages, self._blame = {}, []
        self.archive.reloads["refused"] += 1
        self.save_archive()
        if self._outcome and not self._outcome.done():
            self._outcome.set_exception(refusal)

    def _restart(self, action: g.Restart) -> None:
        self.archive.restarts += 1
        self.save_archive()
        when = f"in {action.delay_s:g} s" if action.delay_s else "at once"
        _log.error("a worker was lost: %s; it is replaced %s", action.reason, when)
        self.scaling.failed(action.reason, f"It is tried again {when}.")

    def _given_up(self, action: g.GivenUp) -> None:
        words = (
            "a worker crashed %d times in a row, the last time: %s; it is not started again before the next reload, %s"
        )
        rest = f"{action.left} carry on" if action.left else "and no other one is left"
        _log.critical(words, self.state.limits.crashes, action.reason, rest)
        self.scaling.failed(action.reason, "Mend the code, and reload.")

    def _recycle(self, action: g.Recycle) -> None:
        if action.key in self.children:
            _log.info("worker %d is being replaced by a fresh one: %s", self.children[action.key].pid, action.reason)

    def _recycled(self, action: g.Recycled) -> None:
        self.archive.recycled += 1
        self.save_archive()

    def _not_recycled(self, action: g.NotRecycled) -> None:
        words = "the fresh worker did not come to serve: %s; the old one goes on, and it is tried again in %g s"
        _log.error(words, action.reason, action.delay_s)

    def _finish(self, action: g.Finish) -> None:
        if not self._finished.done():
            self._finished.set_result(action)

    # What is heard.

    def _heard(self, child: Child, message: handover.Message) -> None:
        if event := event_of(child.key, message):
            self.feed(event)
        elif isinstance(message, handover.Taken):
            self.carries.taken(child, message)
        elif isinstance(message, handover.Final):
            self._close_archive(child)
        elif isinstance(message, handover.Here):
            self._catch_up(child.key, message)
        elif isinstance(message, handover.Tell) and message.what == handover.SPANS:
            self.spans.add(message.body)

    def _catch_up(self, key: int, here: handover.Here) -> None:
        missed, again = succession.catch_up(self.state, key, here.phase, here.accepting)
        for action in again:
            self._acts[type(action)](action)
        for event in missed:
            self.feed(event)

    def _reaped(self, pid: int, status: int) -> None:
        """The keeper has waited for a process that is no child of ours: one that we adopted, perhaps."""
        for child in [child for child in self.children.values() if child.pid == pid]:
            child.reaped(status)

    def _ended(self, child: Child) -> None:
        self._close_archive(child)
        self.feed(g.Exited(child.key, child.why(), child.code))
        del self.children[child.key]
        self.archive.forget(child.key)
        gc.collect()  # it was one large cycle; those that are here since the start are not looked at (`run`)

    def _close_archive(self, child: Child) -> None:
        self.archive.add(child.key, child.samples)
        self.save_archive()

    def _close_listeners(self) -> None:
        """Nobody must be able to connect into a queue that nobody empties any more."""
        for number, listener in enumerate(self._listeners):
            self.keep.drop(listening(number))
            listener.close()

"""A worker's life on its event loop: start → PREPARED → COMMIT → serve → leave."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gapless.core.errors import NotReady
from gapless.core.events import StageEnded
from gapless.core.lifecycle import drain_limits
from gapless.observe.log import log_stage
from gapless.observe.threads import ContextThreads
from gapless.server.handover import carry
from gapless.server.handover.handover import (
    SPANS,
    Ask,
    Beat,
    Bye,
    Channel,
    Commit,
    Drain,
    Fds,
    Final,
    HandoverBroken,
    Here,
    Leaving,
    Message,
    Parted,
    Pause,
    Peers,
    Prepared,
    Recall,
    Received,
    Retire,
    Settled,
    State,
    Stopped,
    Tell,
    Tired,
    Who,
)
from gapless.server.handover.handover import Serving as ServingMessage
from gapless.server.settings import ALIVE_S, BEFORE_LIMIT_S, Task
from gapless.server.worker.debug import ASKED, Debug
from gapless.server.worker.front import Front
from gapless.server.worker.orphan import Watch
from gapless.service.kit import Service

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.server")

BEAT_S = 1.0
BEATS_PER_LIMIT = 4
"""Of a heartbeat limit so short that a beat a second would not do."""
DUMP_SHARE = 0.5
"""Of the time that a hand-over waits for state; the rest is for its way and for loading it."""
PUSH_BEATS = 5
"""Every so many beats the samples go along, so that a crash loses few of them."""
SPANS_PUSHED = 500
"""At a beat: a megabyte at most."""
RETIRE_IDLE_S = 10.0
"""A connection that has asked nothing for so long since the new generation serves is closed: a client that asks rarely
should rather find a closed connection than one that it closed on."""
DRAIN_IDLE_S = 1.0
"""The same when the whole server ends: whoever waits for its end does not wait for silent clients."""
SUCCESSOR_MARGIN_S = 5.0
"""What a worker that is to leave waits for its successor, beyond the time that this one's start may take."""
PROBE_RETRY_S = 0.05
BYE_S = 3.0
"""How long a worker that ends waits for the word that its last samples are safe: time for another master to start."""
BYE_LOOK_S = 0.01


STEPS: dict[type, tuple[str, str]] = {
    Commit: ("prepared", "serving"),
    Pause: ("serving", "paused"),
    Recall: ("paused", "serving"),
}
"""Orders that hold in one phase only: a master that follows another one may give them again."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def memory() -> int:
    """Bytes of resident memory of this process; 0 when it has no descriptor left to read them: it lives all the
    same."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError as error:
        _log.debug("cannot read how much memory is used: %s", error)
        return 0


class Serving:
    def __init__(
        self,
        channel: Channel,
        front: Front,
        outputs: dict[str, int],
        task: Task,
        service: Service,
        world: World,
        began: float,
        watch: Watch,
    ) -> None:
        self._channel = channel
        self._front = front
        self._outputs = outputs
        self._task = task
        self._service = service
        self._world = world
        self._began = began
        self._watch = watch
        self._orders: asyncio.Queue[Message] = asyncio.Queue()
        self._leaving = False
        self._tired = False
        self._carries: set[asyncio.Task[None]] = set()
        self._debug = Debug(world, self._replaceable)
        self._phase = "starting"
        """What it was told to be, or is already."""
        self._accepting = False
        self._final: Final | None = None
        self._released = asyncio.Event()
        self._beats = 0

    async def run(self) -> int:
        """Returns the exit code. Raises NotReady or AppError before it was PREPARED."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ContextThreads(thread_name_prefix="gapless"))
        self._watch.loading = False
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        loop.add_reader(self._channel.fileno(), self._hear)
        starting = asyncio.ensure_future(self._start())
        spared = self._world.after(self._before_dump_s(), faulthandler.cancel_dump_traceback_later)
        ordered = asyncio.ensure_future(self._orders.get())
        await asyncio.wait({starting, ordered}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return await self._abandon(starting)  # any order that comes before PREPARED is one to leave
        starting.result()
        spared()
        faulthandler.cancel_dump_traceback_later()
        self._phase = "prepared"
        self._channel.send(Prepared(self._world.now() - self._began, bool(self._service.carrying.parts)))
        self._beat()
        return await self._obey(await ordered)

    def _before_dump_s(self) -> float:
        """Until just before the stacks would be shown. A loop that is alive then only waits, and says itself what for;
        one that is blocked cannot cancel, and its stack is the reason."""
        return max(self._task.start_s - BEFORE_LIMIT_S - ALIVE_S - (self._world.now() - self._began), 0.0)

    async def _abandon(self, starting: asyncio.Future[None]) -> int:
        starting.cancel()
        await asyncio.wait({starting})
        return 0

    async def _start(self) -> None:
        limit_s = self._task.start_s - (self._world.now() - self._began)
        await self._service.start(max(limit_s, 0.01))
        while not await self._front.probe():
            if self._world.now() - self._began > self._task.start_s:
                raise NotReady(f"/readyz did not answer 200 within {self._task.start_s:g} s", "Look at its checks.")
            await self._world.sleep(PROBE_RETRY_S)

    async def _obey(self, order: Message) -> int:
        while isinstance(order, Commit | Pause | Recall):
            if isinstance(order, Pause):
                await self._pause()
            elif isinstance(order, Recall):
                self._accept()
            else:
                self._commit()
            order = await self._orders.get()
        return await self._leave(order)

    def _commit(self) -> None:
        if not self._task.bakes:
            self._own_outputs()
        if self._task.cpu >= 0:
            os.sched_setaffinity(0, {self._task.cpu})
        self._accept()

    async def _pause(self) -> None:
        """A new generation serves, and has yet to show that it can."""
        await self._front.pause()
        self._stop()

    def _accept(self) -> None:
        self._front.open()
        self._accepting = True
        self._channel.send(ServingMessage())

    def _stop(self) -> None:
        self._accepting = False
        self._channel.send(Stopped())

    def _own_outputs(self) -> None:
        """Until now the master read along what we wrote, for its report; from now on we write by ourselves. A second
        time does nothing."""
        for name, fd in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name)
            stream.flush()
            if name in self._outputs:
                os.dup2(self._outputs[name], fd)
                os.close(self._outputs.pop(name))

    # What the master says, and what it is told.

    def _hear(self) -> None:
        try:
            while received := self._channel.receive():
                self._heard(received)
        except (EOFError, HandoverBroken) as error:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._own_outputs()  # nobody reads along any more
            _log.error("leaving, because the master is lost: %s", error)
            self._released.set()
            self._orders.put_nowait(Drain(self._task.drain_s))

    def _heard(self, received: Received) -> None:
        match received.message:
            case Ask() as ask:
                self._asked(ask)
            case State():
                self._carry(carry.take(self._channel, self._service.carrying, received.fds[0]))
            case Who():
                self._introduce()
            case Settled():
                self._own_outputs()
            case Bye():
                self._released.set()
            case Fds():  # two masters have answered one HELLO
                for fd in received.fds:
                    os.close(fd)
            case order:
                self._ordered(order)

    def _ordered(self, order: Message) -> None:
        if isinstance(order, Parted):
            self._front.parted()
        elif isinstance(order, Peers):
            self._front.share(order.workers)
        elif isinstance(order, Retire | Drain) and self._leaving:
            # It leaves already, and is no longer waited for so patiently.
            self._front.tell(DRAIN_IDLE_S, hand_over=isinstance(order, Retire))
        elif isinstance(order, Retire | Drain):
            self._phase = "leaving"
            self._orders.put_nowait(order)
        elif (step := STEPS.get(type(order))) and step[0] == self._phase:
            self._phase = step[1]
            self._orders.put_nowait(order)

    def _introduce(self) -> None:
        """To a master that has followed another one."""
        self._channel.send(Here(self._phase, self._accepting))
        if self._final:
            self._channel.send(self._final)

    def _asked(self, ask: Ask) -> None:
        if ask.what == "state":
            self._carry(carry.give(self._channel, self._service.carrying, ask.id, self._task.carry_s * DUMP_SHARE))
            return
        if ask.what.startswith(ASKED):
            self._carry(self._inspected(ask))
            return
        body: Any = self._service.samples() if ask.what == "samples" else self._service.health()
        self._channel.send(Tell(ask.id, ask.what, body))

    async def _inspected(self, ask: Ask) -> None:
        self._channel.send(Tell(ask.id, ask.what, await self._debug.answer(ask.what)))

    def _carry(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._carries.add(task)
        task.add_done_callback(self._carried)

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._carries.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("what the master asked for failed", exc_info=error)

    def _terminated(self, why: str = Tired().why) -> None:
        """Somebody ends this worker alone: it goes on until another one serves in its place. The second time, or when
        that takes too long, it leaves all the same."""
        if self._tired or self._phase != "serving":
            self._go()
        else:
            self._tired = True
            self._channel.send(Tired(why))
            self._world.after(self._task.start_s + SUCCESSOR_MARGIN_S, self._go)

    def _replaceable(self) -> bool:
        """Ask for a successor, if this worker serves and has not done so yet."""
        if self._tired or self._phase != "serving":
            return False
        self._terminated("its memory is to be looked at when it is empty")
        return True

    def _go(self) -> None:
        if self._phase != "leaving":
            self._phase = "leaving"
            self._channel.send(Leaving("it was sent SIGTERM"))
            self._orders.put_nowait(Retire(self._task.drain_s))

    def _beat(self) -> None:
        self._world.after(min(BEAT_S, self._task.heartbeat_s / BEATS_PER_LIMIT), self._beat)  # whatever fails below
        self._front.beat()
        self._beats += 1
        if not self._channel.congested:
            self._channel.send(Beat(self._front.count, self._service.unready(), self._service.answered, memory()))
            self._push_spans()
            if self._beats % PUSH_BEATS == 0:
                self._channel.send(Tell(0, "samples", self._service.samples()))

    def _push_spans(self) -> None:
        if spans := self._service.tracing.kept.take(SPANS_PUSHED):
            self._channel.send(Tell(0, SPANS, [span.plain() for span in spans]))

    # Leaving.

    async def _leave(self, order: Message) -> int:
        limit_s = order.limit_s if isinstance(order, Retire | Drain) else self._task.drain_s
        whole = isinstance(order, Drain)
        limits = drain_limits(limit_s, self._task.announce_s if whole else 0.0)
        self._leaving = True
        self._front.tell(DRAIN_IDLE_S if whole else RETIRE_IDLE_S, hand_over=not whole)
        if whole:
            async with self._stage("announce"):
                self._service.announce()
                await self._world.sleep(limits.announce_s)
        async with self._stage("stop accepting"):
            await self._front.stop_accepting(last=whole)
        self._stop()
        if whole:
            self._front.parted()
        await self._finish(limits.finish_s)
        await self._debug.left()
        failed = await self._close(limits.close_s)
        await self._say_bye()
        return int(failed)

    async def _say_bye(self) -> None:
        """The last samples are handed over for certain: to the next master, if this one is killed meanwhile."""
        self._push_spans()
        self._final = Final(self._service.samples())
        self._channel.send(self._final)
        waited_s = 0.0
        while waited_s < BYE_S and not self._released.is_set():
            await self._world.sleep(BYE_LOOK_S)
            waited_s += BYE_LOOK_S
            self._channel.flush()

    async def _finish(self, limit_s: float) -> None:
        end = self._world.now() + limit_s
        async with self._stage("connections"):
            gone = await self._front.gone(limit_s)
        await self._service.finish(max(end - self._world.now(), 0.01))
        if not gone:
            _log.warning("cut %d connections at the drain limit", await self._front.cut())

    async def _close(self, limit_s: float) -> bool:
        """True when a resource did not close properly; the kit has said which."""
        try:
            await self._service.close(limit_s)
        except ExceptionGroup:
            _log.exception("resources did not close properly")
            return True
        return False

    @asynccontextmanager
    async def _stage(self, name: str) -> AsyncIterator[None]:
        """The kit tells of its own stages, `finish` and `close`."""
        began = self._world.now()
        yield
        log_stage(StageEnded(name=name, took_s=self._world.now() - began))

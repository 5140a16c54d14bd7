"""A worker as the master holds it: its process, the channel to it, and what it writes while it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from gapless.server.connections import queue as connection_queue
from gapless.server.connections.queue import Ends
from gapless.server.early import Early
from gapless.server.handover.handover import (
    Ack,
    Ask,
    Beat,
    Bye,
    Channel,
    Failed,
    Fds,
    Final,
    HandoverBroken,
    Hello,
    Here,
    Leaving,
    Message,
    Received,
    Tell,
    Who,
    check_spoken,
)
from gapless.server.handover.listener import listener_name
from gapless.server.handover.pair import pair
from gapless.server.keeper import WORKER
from gapless.server.master.keep import Keep
from gapless.server.master.tee import Tee
from gapless.server.settings import Task
from gapless.server.systemd.notify import without

STATUS_S = 0.2
"""How long the keeper may take to tell how an adopted worker ended."""


class Told(NamedTuple):
    """An answer, with the descriptors that came along."""

    body: Any
    fds: list[int]


class Child:
    """`heard(child, message)` and `ended(child)` are called on the loop. Descriptors: the channel, a pidfd, and two
    pipes until the worker is committed; none of them is left when it has ended. The keeper has copies of channel and
    pipes before the worker exists, so that the next master can `adopt` it."""

    def __init__(
        self,
        key: int,
        task: Task,
        listeners: Sequence[socket.socket],
        queue: Ends,
        heard: Callable[[Child, Message], None],
        ended: Callable[[Child], None],
        keep: Keep,
    ) -> None:
        self.key = key
        self.pid = 0
        self.generation = task.generation
        self.samples: list[Any] = []
        """The last ones known: what was shown once is never taken back, even when it is killed."""
        self.health: dict[str, Any] = {}
        self.talks = False
        """It has a loop that answers questions; before, they would only be waited for, or come in between."""
        self.connections = 0
        self.requests = 0
        self.memory = 0
        self.build = ""
        self.tees: list[Tee] = []
        self._task = task
        self._listeners = listeners
        self._queue = queue
        self._heard = heard
        self._ended = ended
        self._keep = keep
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._status: int | None = None
        self._adopted = False
        self._over = False
        self._failed: Failed | None = None
        self._broken = ""
        self._asks = 0
        self._answers: dict[int, asyncio.Future[Told]] = {}

    def start(self) -> None:
        """Fork and execute. Raises OSError, and leaves nothing open then."""
        self._loop = asyncio.get_running_loop()
        with ExitStack() as undo:
            ours, theirs = pair()
            undo.callback(ours.close)
            with theirs:
                self._open_tees(undo)
                undo.callback(self._keep.drop, self._name)
                self._keep.hold(self._name, [ours.fileno(), *(tee.outlet for tee in self.tees)])
                process = self._execute(theirs.fileno())
            undo.callback(process.wait)
            undo.callback(process.kill)
            for tee in self.tees:
                tee.close_inlet()
            self._pidfd = os.pidfd_open(process.pid)
            undo.pop_all()
        self.pid, self._process = process.pid, process
        self._channel = Channel(ours, self._blocked)
        self._loop.add_reader(self._pidfd, self._reap)
        self._loop.add_reader(self._channel.fileno(), self._readable)

    def take_on(self, early: Early) -> None:
        """Instead of `start`: its process is there already. Raises OSError, and has changed nothing then."""
        self._loop = asyncio.get_running_loop()
        self._keep.hold(self._name, [early.channel.fileno(), *early.outlets])
        early.take()
        self.tees = [Tee(to, outlet) for to, outlet in zip((1, 2), early.outlets, strict=True)]
        self._channel = Channel(early.channel, self._blocked)
        self._loop.add_reader(self._channel.fileno(), self._readable)
        self._know(early.pid)

    def adopt(self, fds: Sequence[int], pid: int) -> None:
        """Instead of `start`: take over what another master started, with the descriptors that the keeper held. `pid`
        is 0 when that master was killed before it could tell."""
        self._loop = asyncio.get_running_loop()
        self._adopted = True
        channel, *outlets = map(os.dup, fds)
        self.tees = [Tee(to, outlet) for to, outlet in zip((1, 2), outlets, strict=False)]
        self._channel = Channel(socket.socket(fileno=channel), self._blocked)
        self._channel.send(Who())
        self._loop.add_reader(self._channel.fileno(), self._readable)
        if pid:
            self._know(pid)

    def _know(self, pid: int) -> None:
        """Watch a process that is no child of ours."""
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._loop.call_soon(self._reap)
            return
        self._loop.add_reader(self._pidfd, self._wait_for_status)

    def _wait_for_status(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._loop.call_later(STATUS_S, self._reap)

    def reaped(self, status: int) -> None:
        """The keeper has waited for it, and tells how it ended."""
        self._status = status
        self._loop.call_soon(self._reap)

    @property
    def _name(self) -> str:
        return f"{WORKER}{self.key}"

    def _open_tees(self, undo: ExitStack) -> None:
        for fd in (1, 2):
            tee = Tee(fd)
            undo.callback(tee.close)
            self.tees.append(tee)

    def _execute(self, channel_fd: int) -> subprocess.Popen[bytes]:
        """A process group of its own keeps the terminal's Ctrl-C away, and can be killed with all that it started."""
        shown = [self._task.app, f"generation={self.generation}"]  # for whoever reads `ps`
        return subprocess.Popen(
            [sys.executable, "-m", "gapless.server.worker", "--channel", str(channel_fd), *shown],
            stdin=subprocess.DEVNULL,
            stdout=self.tees[0].inlet,
            stderr=self.tees[1].inlet,
            env=without(os.environ),
            pass_fds=(channel_fd,),
            process_group=0,
        )

    def send(self, message: Message, fds: Sequence[int] = (), *, give: bool = False) -> None:
        self._channel.send(message, fds, give=give)

    def dump(self) -> None:
        """Have it write the stacks of its threads (faulthandler), which ends it unless it is stopped."""
        try:
            os.kill(self.pid, signal.SIGABRT)
        except ProcessLookupError:
            return  # it has just ended

    def kill(self) -> None:
        """SIGKILL for it and for everything it started in its process group."""
        if not self.pid:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has just ended

    def why(self) -> str:
        """How it ended, for people."""
        if self._failed:
            return self._failed.reason
        return self._broken or describe(self._status)

    @property
    def code(self) -> int:
        """The exit code for the whole server, should this have been the end of it."""
        return self._failed.code if self._failed else 4

    @property
    def told(self) -> list[str]:
        """Why in more words, as far as it could tell: the end of its traceback."""
        return self._failed.log if self._failed else []

    def log(self) -> list[str]:
        """What it told, else the last lines that it wrote while it started."""
        return self.told or self.tees[1].lines() or self.tees[0].lines()

    def _blocked(self) -> None:
        self._loop.add_writer(self._channel.fileno(), self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._channel.fileno())
        self._channel.flush()

    def _readable(self) -> None:
        try:
            while received := self._channel.receive():
                self._take(received)
        except EOFError:
            self._loop.remove_reader(self._channel.fileno())  # it is ending: the pidfd tells
            if not self.pid:
                self._loop.call_soon(self._reap)  # the other master was killed before it started anything
        except HandoverBroken as error:
            self._loop.remove_reader(self._channel.fileno())
            self._broken = str(error)
            self._dismiss()

    def _dismiss(self) -> None:
        """We cannot speak with it. One that serves may finish what it has."""
        if self._adopted and self.pid:
            os.kill(self.pid, signal.SIGTERM)
            self._heard(self, Leaving(self._broken))
        else:
            self.kill()

    def _take(self, received: Received) -> None:
        self._check_sender(received.pid)
        match received.message:
            case Hello() as hello:
                self._greet(hello)
            case Ack(names):
                self._check(names)
            case Failed() as failed:
                self._failed = failed
            case Here() as here:
                self.talks = True
                check_spoken(here.oldest, here.newest, f"worker {self.pid}")
            case Final(samples):
                self.samples = samples
                self._heard(self, received.message)
                self._channel.send(Bye())
                return
            case Tell() as tell:
                self._told(tell, received.fds)
            case Beat() as beat:
                self.talks = True
                self.connections, self.requests, self.memory = beat.connections, beat.requests, beat.memory
        self._heard(self, received.message)

    def _check_sender(self, pid: int) -> None:
        if not self.pid:
            self._know(pid)
        if pid != self.pid:
            raise HandoverBroken(f"process {pid} wrote to the channel of worker {self.pid}")

    def _greet(self, hello: Hello) -> None:
        check_spoken(hello.oldest, hello.newest, f"worker {self.pid} ({hello.build})")
        self.build = hello.build
        self._channel.send(Fds(self._names(), self._task._asdict()), self._fds())

    async def ask(self, what: str, limit_s: float) -> None:
        """Have `samples` or `health` renewed. A worker that does not answer in time keeps what was last known of it."""
        if self.talks:
            await self._ask(what, limit_s)

    async def ask_state(self, limit_s: float) -> Told | None:
        """What it has dumped for its successor: a descriptor, or none when there is nothing. None when it does not
        answer in time."""
        return await self._ask("state", limit_s)

    async def inspect(self, what: str, limit_s: float) -> Any:
        """Its answer about its inside (`server.worker.debug`); None when there is none in time."""
        told = await self._ask(what, limit_s) if self.talks else None
        return told.body if told else None

    async def _ask(self, what: str, limit_s: float) -> Told | None:
        answer: asyncio.Future[Told] = self._loop.create_future()
        self._asks += 1
        number = self._asks
        self._answers[number] = answer
        self._channel.send(Ask(number, what))
        await asyncio.wait({answer}, timeout=limit_s)
        self._answers.pop(number, None)
        return answer.result() if answer.done() and not answer.cancelled() else None

    def _told(self, tell: Tell, fds: list[int]) -> None:
        if tell.what == "samples":
            self.samples = tell.body
        elif tell.what == "health":
            self.health = tell.body
        answer = self._answers.pop(tell.id, None)
        if answer and not answer.done():
            answer.set_result(Told(tell.body, fds))
        else:
            _close(fds)

    def _fds(self) -> list[int]:
        return [*(sock.fileno() for sock in (*self._listeners, *self._queue)), 1, 2]

    def _names(self) -> list[str]:
        return [*map(listener_name, self._listeners), *connection_queue.NAMES, "stdout", "stderr"]

    def _check(self, names: list[str]) -> None:
        if names != self._names():
            raise HandoverBroken(f"worker {self.pid} acknowledged {names}, not {self._names()}")

    def _reap(self) -> None:
        """Its process has ended: hear its last words, let go of everything."""
        if self._over:
            return
        self._over = True
        self._readable()
        self.kill()  # what it started and left behind; nobody else has been given its group's number so soon
        if self._process:
            self._status = self._process.wait()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        self._keep.drop(self._name)
        for tee in self.tees:
            tee.close()
        for answer in self._answers.values():
            answer.cancel()
        self._ended(self)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def describe(status: int | None) -> str:
    """How a child ended: a negative status is the signal that killed it, None is not known."""
    if status is None:
        return "its worker has ended"
    if status >= 0:
        return f"its worker ended with exit status {status}"
    try:
        return f"its worker was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"its worker was killed by signal {-status}"

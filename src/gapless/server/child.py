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
from typing import Any

from gapless.server.handover import (
    Ack,
    Ask,
    Channel,
    Failed,
    Fds,
    Final,
    HandoverBroken,
    Hello,
    Message,
    Received,
    Tell,
    listener_name,
    pair,
)
from gapless.server.settings import Task
from gapless.server.tee import Tee


class Child:
    """`heard(child, message)` and `ended(child)` are called on the loop. Descriptors: the channel, a pidfd, and two
    pipes until the worker is committed; none of them is left when it has ended."""

    def __init__(
        self,
        key: int,
        task: Task,
        listeners: Sequence[socket.socket],
        heard: Callable[[Child, Message], None],
        ended: Callable[[Child], None],
    ) -> None:
        self.key = key
        self.pid = 0
        self.generation = task.generation
        self.samples: list[Any] = []
        """The last ones known: what was shown once is never taken back, even when it is killed."""
        self.health: dict[str, Any] = {}
        self.connections = 0
        self.tees: list[Tee] = []
        self._task = task
        self._listeners = listeners
        self._heard = heard
        self._ended = ended
        self._failed: Failed | None = None
        self._broken = ""
        self._asks = 0
        self._answers: dict[int, asyncio.Future[None]] = {}

    def start(self) -> None:
        """Fork and execute. Raises OSError, and leaves nothing open then."""
        self._loop = asyncio.get_running_loop()
        with ExitStack() as undo:
            ours, theirs = pair()
            undo.callback(ours.close)
            with theirs:
                self._open_tees(undo)
                self._process = self._execute(theirs.fileno())
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            for tee in self.tees:
                tee.close_inlet()
            self._pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
        self.pid = self._process.pid
        self._channel = Channel(ours, self._blocked)
        self._loop.add_reader(self._pidfd, self._reap)
        self._loop.add_reader(self._channel.fileno(), self._readable)

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
            pass_fds=(channel_fd,),
            process_group=0,
        )

    def send(self, message: Message) -> None:
        self._channel.send(message)

    def kill(self) -> None:
        """SIGKILL for it and for everything it started in its process group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has just ended

    def why(self) -> str:
        """How it ended, for people."""
        if self._failed:
            return self._failed.reason
        return self._broken or describe(self._process.returncode)

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
        except HandoverBroken as error:
            self._loop.remove_reader(self._channel.fileno())
            self._broken = str(error)
            self.kill()

    def _take(self, received: Received) -> None:
        if received.pid != self.pid:
            raise HandoverBroken(f"process {received.pid} wrote to the channel of worker {self.pid}")
        match received.message:
            case Hello():
                self._channel.send(Fds(self._names(), self._task._asdict()), self._fds())
            case Ack() as ack:
                self._check(ack)
            case Failed() as failed:
                self._failed = failed
            case Final(samples):
                self.samples = samples
            case Tell() as tell:
                self._told(tell)
        self._heard(self, received.message)

    async def ask(self, what: str, limit_s: float) -> None:
        """Have `samples` or `health` renewed. A worker that does not answer in time keeps what was last known of it."""
        answer: asyncio.Future[None] = self._loop.create_future()
        self._asks += 1
        number = self._asks
        self._answers[number] = answer
        self._channel.send(Ask(number, what))
        await asyncio.wait({answer}, timeout=limit_s)
        self._answers.pop(number, None)

    def _told(self, tell: Tell) -> None:
        if tell.what == "samples":
            self.samples = tell.body
        else:
            self.health = tell.body
        answer = self._answers.pop(tell.id, None)
        if answer and not answer.done():
            answer.set_result(None)

    def _fds(self) -> list[int]:
        return [*(sock.fileno() for sock in self._listeners), 1, 2]

    def _names(self) -> list[str]:
        return [*map(listener_name, self._listeners), "stdout", "stderr"]

    def _check(self, ack: Ack) -> None:
        if ack.names != self._names():
            raise HandoverBroken(f"worker {self.pid} acknowledged {ack.names}, not {self._names()}")

    def _reap(self) -> None:
        """Its process has ended: hear its last words, let go of everything."""
        self._readable()
        self.kill()  # what it started and left behind; as it is not reaped yet, its group's number is still its own
        self._process.wait()
        for fd in (self._pidfd, self._channel.fileno()):
            self._loop.remove_reader(fd)
        self._loop.remove_writer(self._channel.fileno())
        os.close(self._pidfd)
        self._channel.close()
        for tee in self.tees:
            tee.close()
        for answer in self._answers.values():
            answer.cancel()
        self._ended(self)


def describe(status: int) -> str:
    """How a child ended: a negative status is the signal that killed it."""
    if status >= 0:
        return f"its worker ended with exit status {status}"
    try:
        return f"its worker was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"its worker was killed by signal {-status}"

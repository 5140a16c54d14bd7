"""What a master gives to its keeper, and hears from it (`keeper`)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from gapless.server import keeper

_log = logging.getLogger("gapless.server")

Signalled = Callable[[int], None]
Ended = Callable[[int, int], None]
"""Called with the pid and the status of a process that was no child of ours."""

QUEUE = "queue"
"""The name under which the connection queue is held."""
HEIR = "gapless.server.heir"
INHERIT_S = 30.0
RENEW_S = (0.0, 0.1, 0.5, 1.0, 5.0)
"""How long to wait before starting another keeper, when those before it died as soon as they were started."""

BEATS = 6
"""How often a master says that it lives in the time after which its keeper takes it for hung."""
AGAIN_S = 1.0
"""How long to wait when there was no descriptor left for it."""


class Keep(Protocol):
    """Where a master puts what its successor needs."""

    pid: int
    """Of the process that the world knows."""
    changed: list[Callable[[], None]]
    """Called when that is another one."""

    def begin(self, signalled: Signalled, ended: Ended, patience_s: float) -> None: ...
    def hold(self, name: str, fds: Sequence[int]) -> None: ...
    def save(self, name: str, value: Any) -> bool: ...
    def drop(self, name: str) -> None: ...
    def stay(self, stays: bool, code: int = 0) -> None: ...
    def leave(self) -> bool: ...


class Alone:
    """A master without a keeper: what dies with it is lost, and the signals are its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.changed: list[Callable[[], None]] = []

    def begin(self, signalled: Signalled, ended: Ended, patience_s: float) -> None:
        loop = asyncio.get_running_loop()
        for number in keeper.FORWARDED:
            loop.add_signal_handler(number, signalled, number)

    def hold(self, name: str, fds: Sequence[int]) -> None:
        """Nobody would have it."""

    def save(self, name: str, value: Any) -> bool:
        """Nobody would read it."""
        return True

    def drop(self, name: str) -> None:
        """There is nothing."""

    def stay(self, stays: bool, code: int = 0) -> None:
        """It ends when it ends."""

    def leave(self) -> bool:
        """It has no successor."""
        return False


class Legacy(NamedTuple):
    """What a new master receives. `before`: the pid of the former one and how it ended, as far as known."""

    held: dict[str, list[int]]
    pid: int
    before: str
    deaths: int
    stops: list[int]
    ended: dict[int, int]

    def value(self, name: str) -> Any:
        """What was saved under that name; None when nothing was."""
        if name not in self.held:
            return None
        fd = self.held[name][0]
        return json.loads(os.pread(fd, os.fstat(fd).st_size, 0))


class Kept:
    """`Keep` with a keeper at the other end of `channel`. It has copies of all that it holds, and starts another keeper
    when that one is killed; `changed` are called then, when the server has another pid."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self.pid = pid
        self.changed: list[Callable[[], None]] = []
        self._channel = channel
        self._held: dict[str, list[int]] = {}
        self._out: deque[tuple[bytes, list[int]]] = deque()
        self._stays = (False, 0)
        self._own = 0
        self._renewals = 0
        self._renewed_at = 0.0
        self._begun = False

    def begin(self, signalled: Signalled, ended: Ended, patience_s: float) -> None:
        """Listen, on the running loop, which is taken for hung when it stands for `patience_s`. What a terminal or a
        supervisor sends to the whole process group is for the keeper, which passes it on: it must not count twice."""
        self._loop = asyncio.get_running_loop()
        self._signalled, self._ended = signalled, ended
        self._begun = True
        ignore_signals()
        self._listen()
        self._flush()
        self._beat(patience_s)

    def _beat(self, patience_s: float) -> None:
        self._loop.call_later(patience_s / BEATS, self._beat, patience_s)
        if not self._out:  # else it has yet to read an earlier one
            self._say("B", f"{patience_s:g}")

    def hold(self, name: str, fds: Sequence[int]) -> None:
        """Keep copies of these under that name, instead of what was there. Raises OSError, and has changed nothing
        then."""
        self._replace(name, _copies(fds))

    def take(self, name: str, fds: Sequence[int]) -> None:
        """The keeper holds these already (`Legacy`): they are ours."""
        self._held[name] = list(fds)

    def save(self, name: str, value: Any) -> bool:
        """Keep a value that JSON can say. Whoever kills us meanwhile finds the old one or the new one. False when there
        is no room for it: whatever the server does at the moment goes on."""
        try:
            self._replace(name, [_written(name, json.dumps(value, separators=(",", ":")).encode())])
        except OSError as error:
            words = "cannot keep the %s for a master that might follow, and try again: %s; raise the limit (ulimit -n)"
            _log.error(words, name, error)
            return False
        return True

    def _replace(self, name: str, fds: list[int]) -> None:
        """Hold these, which are ours from now on. Raises OSError; they are closed then."""
        try:
            self._say("H", name, fds)
        except OSError:
            _close(fds)
            raise
        _close(self._held.pop(name, []))
        self._held[name] = fds

    def drop(self, name: str) -> None:
        if name in self._held:
            _close(self._held.pop(name))
            self._say("D", name)

    def stay(self, stays: bool, code: int = 0) -> None:
        """Whether the server lives on when this process ends; if not, with which exit code it ends."""
        self._stays = (stays, code)
        self._say("S", f"{int(stays)} {code}")

    def leave(self) -> bool:
        """This process wants to end in favour of a successor; False when the keeper cannot be told now."""
        self._say("N")
        return self._channel.fileno() >= 0 and not self._out

    # The channel.

    def _listen(self) -> None:
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel.fileno(), self._hear)

    def _say(self, verb: str, text: str = "", fds: Sequence[int] = ()) -> None:
        packet = keeper.pack(verb, text)
        if self._out or not self._sent(packet, fds):
            self._out.append((packet, _copies(fds)))

    def _sent(self, packet: bytes, fds: Sequence[int]) -> bool:
        """False when the channel is full at present."""
        if self._channel.fileno() < 0:
            return True  # another keeper is about to be started, and is told everything
        try:
            keeper.send(self._channel, packet, fds)
        except BlockingIOError:
            if self._begun:  # else `begin` tries again
                self._loop.add_writer(self._channel.fileno(), self._writable)
            return False
        except (BrokenPipeError, ConnectionResetError):
            if self._begun:  # else `begin` hears the end of the stream, and there is a loop to act on it
                self._lost()
        return True

    def _flush(self) -> None:
        while self._out:
            packet, fds = self._out[0]
            if not self._sent(packet, fds):
                return
            if self._out:  # else the keeper was lost, and what it had not been told is forgotten
                self._out.popleft()
                _close(fds)

    def _writable(self) -> None:
        self._loop.remove_writer(self._channel.fileno())
        self._flush()

    def _forget(self) -> None:
        for _, fds in self._out:
            _close(fds)
        self._out.clear()

    def _hear(self) -> None:
        try:
            packet, _ = keeper.receive(self._channel)
        except BlockingIOError:
            return
        verb, text = keeper.unpack(packet)
        if not packet:
            self._lost()
        elif verb == "S":
            self._signalled(int(text))
        elif verb == "R":
            pid, status = text.split(" ")
            self._ended(int(pid), int(status))

    # Another keeper.

    def _lost(self) -> None:
        """The keeper has been killed. Another one is told everything, once there is something to keep."""
        for remove in (self._loop.remove_reader, self._loop.remove_writer):
            remove(self._channel.fileno())
        self._channel.close()
        self._forget()
        if self._own:
            os.waitpid(self._own, 0)
            self._own = 0
        if not self._stays[0]:
            self._signalled(signal.SIGTERM)  # whoever kills a server that is not ready yet wants none
            return
        lived_s = self._loop.time() - self._renewed_at
        self._renewals = 0 if lived_s >= keeper.STABLE_KILLED_S else min(self._renewals + 1, len(RENEW_S) - 1)
        self._loop.call_later(RENEW_S[self._renewals], self._renew)

    def _renew(self) -> None:
        self._renewed_at = self._loop.time()
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            _log.error("cannot start another keeper, and try again: %s; raise the limit (ulimit -n)", error)
            self._loop.call_later(AGAIN_S, self._renew)
            return
        self._channel = ours
        with theirs:
            try:
                self.pid = self._own = keeper.spawn(keeper.keeper_command(os.getpid(), heir_command()), theirs)
            except OSError:
                self._listen()  # as if it had been killed: `theirs` is closed
                return
        self._listen()
        for name, fds in self._held.items():
            self._say("H", name, fds)
        self.stay(*self._stays)
        _log.warning("the keeper has ended, and process %d is the keeper now: signals go there", self.pid)
        for changed in self.changed:
            changed()


def listening(number: int) -> str:
    """The name under which a listener is held."""
    return f"listen:{number}"


def _copies(fds: Sequence[int]) -> list[int]:
    """All of them, or OSError and none."""
    copies: list[int] = []
    try:
        copies.extend(os.dup(fd) for fd in fds)
    except OSError:
        _close(copies)
        raise
    return copies


def _written(name: str, content: bytes) -> int:
    """The descriptor of a file in memory that holds this. Raises OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
    except OSError:
        os.close(fd)
        raise
    return fd


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def heir_command() -> list[str]:
    """What a keeper starts the next master with; "{}" becomes the number of its channel."""
    return [sys.executable, "-m", HEIR, "{}"]


def ignore_signals() -> None:
    """Handlers, not SIG_IGN, which programs that we start would inherit."""
    for number in keeper.FORWARDED:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, keeper.BLOCKED)


def part() -> Kept:
    """Become two: the caller goes on as the master, in a child; the process itself, which the world has started,
    becomes its keeper by executing that. So nothing has to be imported twice on the way of a start."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, keeper.BLOCKED)
    sys.stdout.flush()
    master = os.fork()
    if master:
        os.set_inheritable(theirs.fileno(), True)
        command = keeper.keeper_command(master, heir_command())
        try:
            os.execv(command[0], keeper.with_number(command, theirs.fileno()))  # noqa: S606 - no shell is wanted
        finally:
            os.kill(master, signal.SIGKILL)
    theirs.close()
    ignore_signals()
    return Kept(ours, pid)


def inherit(channel: socket.socket) -> tuple[Kept, Legacy]:
    """What a keeper gives to a new master. Raises TimeoutError, EOFError."""
    held: dict[str, list[int]] = {}
    ready = select.poll()
    ready.register(channel, select.POLLIN)
    while True:
        if not ready.poll(INHERIT_S * 1000):
            raise TimeoutError(f"the keeper has said nothing for {INHERIT_S:g} s")
        packet, fds = keeper.receive(channel)
        if not packet:
            raise EOFError("the keeper is gone")
        verb, text = keeper.unpack(packet)
        if verb == "H":
            held[text] = fds
        elif verb == "G":
            legacy = legacy_of(held, text)
            kept = Kept(channel, legacy.pid)
            for name, held_fds in held.items():
                kept.take(name, held_fds)
            return kept, legacy


def legacy_of(held: dict[str, list[int]], facts: str) -> Legacy:
    """From the words of `Keeper.facts`; what is missing was not known to an older keeper."""
    words = dict(word.split("=", 1) for word in facts.split(" "))
    ended = [pair.split(":") for pair in words.get("ended", "").split(",") if pair]
    return Legacy(
        held,
        int(words["pid"]),
        words.get("before", ""),
        int(words.get("deaths", 0)),
        [int(number) for number in words.get("stops", "").split(",") if number],
        {int(pid): int(status) for pid, status in ended},
    )

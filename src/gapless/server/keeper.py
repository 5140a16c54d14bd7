"""The process that the world knows by its pid. It holds copies of all that must not close while the server lives,
starts another master when the present one dies, passes signals on, and waits for every orphan. It never upgrades and
imports next to nothing: what it cannot do wrong, nobody has to survive. Masters of other versions execute this file:
its place stays.

    python -S -s -P keeper.py CHANNEL MASTER COMMAND...

CHANNEL is a descriptor, MASTER the pid at its other end, COMMAND what starts the next master ("{}" in it stands for the
number of that one's channel). Packets are the letter K, a verb and text; descriptors come along (SCM_RIGHTS). What one
side does not know it ignores. Source: PR_SET_CHILD_SUBREAPER in prctl(2).

    master → keeper  H name        hold these descriptors under that name, instead of those that it held
                     D name        close them
                     S stays code  "1": whatever ends the master, another one follows. "0": the server ends with it
                     N             another master shall follow at once: this one leaves in its favour
                     B seconds     it lives; when it does not say so again for so long it hangs, and is killed
    keeper → master  H name        what was held, to a new master
                     G facts       that was all; words of `facts`
                     S number      a signal
                     R pid status  a process that nobody else waits for has ended
"""

from __future__ import annotations

import array
import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU
)  # fmt: skip
BLOCKED = frozenset({*FORWARDED, signal.SIGCHLD})
"""While a keeper or a master starts and has no handlers yet: what is sent meanwhile arrives later."""
STOPS = frozenset({signal.SIGINT, signal.SIGTERM})
PACKET_BYTES = 65_536
MAX_FDS = 253
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 5.0
"""The first death of a master is answered at once, the following ones after 0.1 s, 0.2 s … 5 s: a master that crashes
again and again must not eat the machine, but for as long as there is none, nobody replaces a worker."""
STABLE_S = 10.0
"""A master that has lived for so long begins a new series."""
STABLE_KILLED_S = 1.0
"""The same for one that somebody has killed: that is not its own crash."""
HOPELESS = 5
"""After so many deaths in a row, a keeper whose workers have all gone, or that was told to stop, ends."""
WORKER = "worker:"
"""What the names begin with under which a worker's channel is held, first of its descriptors."""
ENDED_KEPT = 1000
NAPS = 3
"""A master is waited for in so many parts."""
_SUBREAPER = 36


def pack(verb: str, text: str = "") -> bytes:
    return b"K" + verb.encode() + text.encode()


def unpack(packet: bytes) -> tuple[str, str]:
    """Verb and text; two empty ones for what is no packet of ours."""
    return (packet[1:2].decode("latin-1"), packet[2:].decode()) if packet[:1] == b"K" else ("", "")


def send(channel: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    """Raises BlockingIOError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([packet], rights, socket.MSG_DONTWAIT)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """A packet, empty at the end of the stream, and the descriptors with it. Raises BlockingIOError."""
    fds = array.array("i")
    room = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
    try:
        packet, control, _, _ = channel.recvmsg(PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return b"", []
    for _, _, data in control:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, list(fds)


def with_number(command: Sequence[str], number: int) -> list[str]:
    """The first "{}" replaced: the command of a keeper contains that of a master, which has one, too."""
    at = list(command).index("{}")
    return [*command[:at], str(number), *command[at + 1 :]]


def spawn(command: Sequence[str], channel: socket.socket) -> int:
    """Start a program that finds `channel` under the number that replaces "{}"; its pid. Raises OSError."""
    number = channel.fileno()
    argv = with_number(command, number)
    os.set_inheritable(number, True)
    try:
        return os.posix_spawn(argv[0], argv, os.environ, setsigmask=BLOCKED)
    finally:
        os.set_inheritable(number, False)


def keeper_command(master: int, command: Sequence[str]) -> list[str]:
    """What starts a keeper."""
    return [sys.executable, "-S", "-s", "-P", __file__, "{}", str(master), *command]


def backoff(deaths: int) -> float:
    """Seconds to wait after so many deaths in a row."""
    return 0.0 if deaths <= 1 else float(min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2 ** min(deaths - 2, 16)))


class Patience:
    """With a master that says nothing: it counts parts of its time that passed while we looked, so that when we were
    stopped as well, or the machine slept, one part has passed and not all of them."""

    def __init__(self) -> None:
        self.renew(0.0, 0.0)

    def renew(self, seconds: float, now: float) -> None:
        """It lives. 0: it is not watched."""
        self._nap_s, self._naps = seconds / NAPS, 0
        self.until = now + self._nap_s if seconds else float("inf")

    def lost(self, now: float) -> bool:
        """To be asked from `until` on, after everything was heard that the master has said."""
        if now >= self.until:
            self._naps += 1
            self.until = now + self._nap_s
        return self._naps >= NAPS


class Keeper:
    """`run` is the whole life."""

    def __init__(self, channel: socket.socket, master: int, command: Sequence[str]) -> None:
        self.held: dict[str, list[int]] = {}
        self.code: int | None = None
        self._channel: socket.socket | None = channel
        self._master = master
        self._pidfd = -1
        self._command = list(command)
        self._out: deque[tuple[bytes, list[int]]] = deque()
        self._stays = False
        self._leaves = False
        self._status = 0
        self._before = ""
        self._deaths = 0
        self._began = 0.0
        self._retry_at = 0.0
        self._stops: list[int] = []
        self._missed: list[int] = []
        self._ended: dict[int, int] = {}
        self._patience = Patience()

    def run(self, signals: int) -> int:
        """`signals`: a descriptor from which the numbers of signals are read, a byte each. Returns the exit code."""
        self._watch()
        while self.code is None:
            ready = self._wait(signals)
            if signals in ready:
                self._signalled(os.read(signals, 4096))
            if self._channel and self._channel.fileno() in ready:
                self._hear()
            self._reap()
            if self._pidfd in ready:
                self._died(None)
            elif self._pidfd >= 0 and self._patience.lost(time.monotonic()):
                self._end_hung()
            if self._pidfd < 0 and self.code is None and time.monotonic() >= self._retry_at:
                self._start_next()
            self._flush()
        return self.code

    def _watch(self) -> None:
        self._began = time.monotonic()
        try:
            self._pidfd = os.pidfd_open(self._master)
        except ProcessLookupError:
            self._died(None)

    def _wait(self, signals: int) -> set[int]:
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        if self._channel:
            poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._out else 0))
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        until = self._patience.until if self._pidfd >= 0 else self._retry_at
        wait_ms = max(until - time.monotonic(), 0.0) * 1000 + 1
        return {fd for fd, _ in poll.poll(wait_ms if until < float("inf") else None)}

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number in STOPS:
                self._stops.append(number)
            if number in FORWARDED and self._pidfd >= 0:
                self._send(pack("S", str(number)))
            elif number in FORWARDED and number not in STOPS:
                self._missed.append(number)

    def _reap(self) -> None:
        """Wait for every child that has ended: the master, workers of an earlier one, and what these left behind."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found[0], os.waitstatus_to_exitcode(found[1])
                if pid == self._master and self._pidfd >= 0:
                    self._died(status)
                else:
                    self._tell_ended(pid, status)

    def _tell_ended(self, pid: int, status: int) -> None:
        if self._pidfd >= 0:
            self._send(pack("R", f"{pid} {status}"))
        else:
            self._ended[pid] = status
            while len(self._ended) > ENDED_KEPT:
                self._ended.pop(next(iter(self._ended)))

    # The master.

    def _hear(self) -> None:
        """Everything that the master has said by now; at the end of the stream, nothing more."""
        while self._channel:
            try:
                packet, fds = receive(self._channel)
            except BlockingIOError:
                return
            if packet:
                self._told(*unpack(packet), fds)
            else:
                self._channel.close()
                self._channel = None
                self._out.clear()

    def _told(self, verb: str, text: str, fds: list[int]) -> None:
        if verb == "H":
            if not fds and text in self.held:
                return  # we had no room for them: what was held before is better than nothing
            self._let_go(text)
            self.held[text] = fds
            return
        for fd in fds:
            os.close(fd)
        if verb == "D":
            self._let_go(text)
        elif verb == "S":
            stays, _, code = text.partition(" ")
            self._stays, self._status = stays == "1", int(code or 0)
        elif verb == "N":
            self._leaves = True
        elif verb == "B":
            self._patience.renew(float(text), time.monotonic())

    def _let_go(self, name: str) -> None:
        for fd in self.held.pop(name, ()):
            os.close(fd)

    def _end_hung(self) -> None:
        complain(f"master {self._master} hangs, and is killed")
        self._patience.renew(0.0, 0.0)
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _died(self, status: int | None) -> None:
        """The master has ended; `status` as far as that is known: it is not always a child of ours."""
        self._hear()  # its last words
        if self._channel:
            self._channel.close()
        self._channel = None
        self._out.clear()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = -1
        self._patience.renew(0.0, 0.0)
        self._before = f"{self._master}:{'' if status is None else status}"
        if not self._stays:
            self.code = self._status if status is None else status if status >= 0 else 128 - status
            return
        self._again(STABLE_KILLED_S if status in (None, -signal.SIGKILL) else STABLE_S)

    def _again(self, stable_s: float) -> None:
        """When to start another master, and whether."""
        now = time.monotonic()
        if self._leaves or now - self._began >= stable_s:
            self._deaths = 0
        if not self._leaves:
            self._deaths += 1
        self._leaves = False
        self._retry_at = now + backoff(self._deaths)
        if self._deaths >= HOPELESS and (self._stops or not self._anybody_serves()):
            complain("the master cannot be kept alive; giving up")
            self.code = 1  # workers that are left see the end of their channels, and drain

    def _anybody_serves(self) -> bool:
        """Whether a worker is at the other end of a channel that is held."""
        poll = select.poll()
        channels = [fds[0] for name, fds in self.held.items() if name.startswith(WORKER) and fds]
        for fd in channels:
            poll.register(fd, 0)
        return len(poll.poll(0)) < len(channels)

    def _start_next(self) -> None:
        try:
            self._channel, self._master = self._spawned()
        except OSError as error:
            complain(f"cannot start another master: {error}")
            self._began = time.monotonic()
            self._again(STABLE_S)
            return
        self._watch()
        for name, fds in self.held.items():
            self._send(pack("H", name), fds)
        self._send(pack("G", self.facts()))
        for number in self._missed:
            self._send(pack("S", str(number)))
        self._missed.clear()
        self._ended.clear()

    def _spawned(self) -> tuple[socket.socket, int]:
        """Our end of its channel, and its pid. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                return ours, spawn(self._command, theirs)
            except OSError:
                ours.close()
                raise

    def facts(self) -> str:
        """What a new master is told: our pid, who was master and how it ended, every stop so far, and who has ended."""
        ended = ",".join(f"{pid}:{status}" for pid, status in self._ended.items())
        stops = ",".join(map(str, self._stops))
        return f"pid={os.getpid()} before={self._before} deaths={self._deaths} stops={stops} ended={ended}"

    def _send(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        if self._channel:
            self._out.append((packet, list(fds)))

    def _flush(self) -> None:
        while self._out and self._channel:
            packet, fds = self._out[0]
            try:
                send(self._channel, packet, fds)
            except BlockingIOError:
                return
            except OSError as error:
                self._out.clear()  # it has gone, which its pidfd tells as well
                if not isinstance(error, BrokenPipeError | ConnectionResetError):
                    raise
                return
            self._out.popleft()


def complain(text: str) -> None:
    """On our error output, unless that is full or closed: nothing may hold us up."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with suppress(OSError):
        if poll.poll(0):
            os.write(2, f"gapless: {text}\n".encode())


def listen_to_signals() -> int:
    """The descriptor from which `Keeper.run` reads them."""
    outlet, inlet = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(inlet, warn_on_full_buffer=False)
    for number in BLOCKED:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    return outlet


def close_others(channel: int) -> None:
    """Descriptors that were inherited belong to the master; a copy here would keep them open for ever."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != channel:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one of this listing


def main(argv: Sequence[str]) -> int:
    """The exit code: the master's."""
    channel = int(argv[0])
    os.set_inheritable(channel, False)
    close_others(channel)
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    keeper = Keeper(socket.socket(fileno=channel), int(argv[1]), argv[2:])
    return keeper.run(listen_to_signals())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

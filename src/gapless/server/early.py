"""The first worker of a server is started ahead of its master, so that the two load side by side: the interpreter with
everything but the application. It gets its listeners and its task when the master is there, as any other worker.

Imported before anything else (`__main__`), so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from gapless.server.handover.pair import pair

AHEAD = "--ahead"
"""Tells a worker to load what every HTTP service needs before it hears what it is to serve."""
_HIDDEN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""What systemd tells the server alone."""


class Early:
    """`outlets`: what it writes to stdout and stderr is read there. Whoever takes it on says so by `take`."""

    def __init__(self, pid: int, channel: socket.socket, outlets: Sequence[int]) -> None:
        self.pid = pid
        self.channel = channel
        self.outlets = list(outlets)
        self._taken = False

    def take(self) -> None:
        self._taken = True

    def end(self) -> None:
        """Nobody needs it, unless it was taken on. It is our child until there is a keeper, and that one's then."""
        if self._taken:
            return
        self._taken = True
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.channel.close()
        for fd in self.outlets:
            os.close(fd)


def wanted(argv: Sequence[str]) -> bool:
    """Whether this command line is about to serve HTTP, as far as one can tell without reading it all."""
    return len(argv) > 1 and argv[0] == "serve" and not {"-h", "--help", "--grpc"}.intersection(argv)


def start(words: Sequence[str]) -> Early:
    """`words` are for whoever reads `ps`. Raises OSError."""
    ours, theirs = pair()
    pipes = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
    try:
        with theirs:
            pid = _spawn(theirs.fileno(), [inlet for _, inlet in pipes], words)
    finally:
        for _, inlet in pipes:
            os.close(inlet)
    return Early(pid, ours, [outlet for outlet, _ in pipes])


def _spawn(channel: int, inlets: Sequence[int], words: Sequence[str]) -> int:
    """As `master.child` does it: a process group of its own, and no descriptors but those that it needs."""
    argv = [sys.executable, "-m", "gapless.server.worker", "--channel", str(channel), AHEAD, *words]
    environ = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        *((os.POSIX_SPAWN_DUP2, inlet, to) for inlet, to in zip(inlets, (1, 2), strict=True)),
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()),
    ]
    os.set_inheritable(channel, True)
    unignored = [signal.SIGPIPE, signal.SIGXFSZ]
    return os.posix_spawn(argv[0], argv, environ, file_actions=actions, setpgroup=0, setsigdef=unignored)


def _inheritable() -> list[int]:
    """Descriptors that systemd or a shell has passed to the server alone."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of this listing
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def open_standard_descriptors() -> None:
    """Where 0, 1 or 2 are closed, the next socket would get that number and be written into as if it were the output.
    Python has no stream for a closed one either."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)

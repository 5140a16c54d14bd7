"""What a server tells the service manager that started it: the protocol of sd_notify(3), one datagram per message to
the socket that NOTIFY_SOCKET names. Nothing here blocks, and nobody's absence is an error: an answer is never given.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gapless.server.systemd.sockets import STORED

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.server")

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Meant for the server, not for its workers: an application that announces itself by them would speak for all."""
BEATS = 3
"""How often we say that we live within the time after which the manager would take us for dead."""
_GONE = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN, errno.ENOBUFS, errno.EPERM, errno.EACCES})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Nothing that the server does may fail, because it cannot be told for the moment."""


class Manager(NamedTuple):
    """The manager of this process: an address as NOTIFY_SOCKET gives it, "" for none, and its patience in seconds, 0
    when it keeps no watch."""

    address: str = ""
    watchdog_s: float = 0.0

    @property
    def beat_s(self) -> float:
        """Seconds between two signs of life; 0 when none are wanted."""
        return self.watchdog_s / BEATS if self.address else 0.0

    def tell(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        """Send assignments such as `READY=1`, with descriptors; False when nobody took them."""
        if not self.address:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendmsg(["\n".join(lines).encode()], rights, 0, _address(self.address))
        except OSError as error:
            if error.errno not in _GONE | _EXHAUSTED:
                raise
            _log.warning("the service manager at %s did not take %s: %s", self.address, lines[0], error.strerror)
            return False
        return True

    def ready(self, main_pid: int, status: str) -> None:
        """Also the end of a reload."""
        self.tell("READY=1", f"MAINPID={main_pid}", f"STATUS={status}")

    def reloading(self, status: str, now: float) -> None:
        """`now` is CLOCK_MONOTONIC in seconds."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={now * 1e6:.0f}", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        self.tell("STOPPING=1", f"STATUS={status}")

    def moved(self, main_pid: int) -> None:
        """The process that stands for us is another one."""
        self.tell(f"MAINPID={main_pid}")

    async def beat(self, world: World) -> None:
        """Say for ever that we live, while the loop does."""
        while self.beat_s:
            self.tell("WATCHDOG=1")
            await world.sleep(self.beat_s)

    def store(self, fds: Sequence[int]) -> None:
        """Have listeners kept over our own end, instead of those before: the manager passes them to our successor.
        FDPOLL=0, as a listener is never hung up."""
        self.tell("FDSTOREREMOVE=1", f"FDNAME={STORED}")
        if fds:
            self.tell("FDSTORE=1", f"FDNAME={STORED}", "FDPOLL=0", fds=fds)


def manager(environment: Mapping[str, str]) -> Manager:
    """The manager that the environment names. Whose watchdog it is by WATCHDOG_PID does not matter: that is the keeper,
    or one before it, and the master speaks for them all."""
    patience = environment.get("WATCHDOG_USEC", "0")
    return Manager(environment.get("NOTIFY_SOCKET", ""), int(patience) / 1e6 if patience.isdecimal() else 0.0)


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that is not to speak to our manager."""
    return {name: value for name, value in environment.items() if name not in VARIABLES}


def _address(name: str) -> str | bytes:
    """A leading @ stands for the abstract namespace."""
    return b"\0" + os.fsencode(name[1:]) if name.startswith("@") else name

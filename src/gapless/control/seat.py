"""The one control plane that acts on this machine: a lock on the state directory, beside the lease in the store.

The lease elects, the lock excludes. Who has won the election but finds the seat taken by a control plane that does not
rise (it is stopped, or hangs) ends it: it could wake up at any time and go on where it was, starting and stopping
processes. A control plane can be killed at any moment without harm; two that act at once do harm.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

from gapless.core.errors import StoreLocked
from gapless.core.ports import World
from gapless.store._lock import FileLock

GRACE_S = 1.0
"""For one that has just lost the lease and is about to rise by itself."""
DEATH_S = 10.0
EMBEDDED = "store.db"
"""The store of a control plane without a shared one; its lock is that of the file. Who leads here holds it as well, so
that the two never act on the same processes."""
LOOK_S = 0.05

_log = logging.getLogger("gapless.control")


class Seat:
    """In a state directory. The kernel takes it back from a process that ends."""

    def __init__(self, state: Path, world: World) -> None:
        self._world = world
        self._lock = FileLock(state / "control")
        self._embedded = FileLock(state / EMBEDDED)

    def take(self) -> None:
        """Raises StoreLocked when somebody sits there."""
        self._embedded.take()
        try:
            self._lock.take()
        except BaseException:
            self._embedded.release()
            raise

    async def seize(self) -> None:
        """As the elected leader: wait for whoever sits there to rise, then end it. Raises StoreLocked when that cannot
        be done, or when it is a control plane on the embedded store: that was never elected, nor deposed."""
        begun, ended = self._world.now(), False
        while True:
            try:
                self.take()
                return
            except StoreLocked:
                waited = self._world.now() - begun
                if waited > GRACE_S + DEATH_S:
                    raise
                if waited > GRACE_S and not ended:
                    ended = end(self._lock.holder(), self._lock.path)
            await self._world.sleep(LOOK_S)

    def release(self) -> None:
        self._lock.release()
        self._embedded.release()


def end(pid: int, lock: Path) -> bool:
    """SIGKILL the process if it truly has the lock's file open; whether it was. Raises StoreLocked when we may not."""
    try:
        descriptor = os.pidfd_open(pid)
    except (ProcessLookupError, ValueError):
        return False
    try:
        if not _has_open(pid, lock):
            return False
        _log.warning("process %d has lost the lead and does not give up its place: it is ended", pid)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    except PermissionError as error:
        raise StoreLocked(
            f"process {pid} has lost the lead, keeps its place and may not be ended by us: {error.strerror}",
            f"End it: kill -9 {pid}.",
        ) from error
    finally:
        os.close(descriptor)


def _has_open(pid: int, path: Path) -> bool:
    wanted, opened = os.path.realpath(path), f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{opened}/{number}") == wanted for number in os.listdir(opened))
    except (FileNotFoundError, PermissionError):
        return False  # it has just ended, closed what we looked at, or is another user's

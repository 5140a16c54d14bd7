"""One owner for a file: a lock that the kernel takes back when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gapless.core.errors import StoreLocked


class FileLock:
    """An exclusive `flock` on `<path>.lock`, with the holder's pid in it for people and for the error message.

    The file stays behind, empty: removing it would let two processes hold locks on two files of the same name.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.path = path, path.with_name(path.name + ".lock")
        self._descriptor = -1

    def take(self) -> None:
        """Raises StoreLocked, which names the holder; OSError."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            by = f"process {holder}" if holder else "another process"
            raise StoreLocked(f"{self._path} is held by {by}") from error
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def holder(self) -> int:
        """The pid of whoever has it, or had it last; 0 when that cannot be told."""
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return 0

    def release(self) -> None:
        """No error when it is not held."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
        self._descriptor = -1

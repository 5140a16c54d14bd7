"""A process that is watched by a pidfd, whoever started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Self

from gapless.gateway.envoy.epochs import Epoch


class Held:
    """`ended` is set when it is no more. To be closed."""

    def __init__(self, epoch: Epoch, pidfd: int) -> None:
        self.epoch = epoch
        self.ended = asyncio.Event()
        self._pidfd = pidfd

    @classmethod
    def of(cls, epoch: Epoch) -> Self | None:
        """None: it has ended already."""
        try:
            held = cls(epoch, os.pidfd_open(epoch.pid))
        except OSError:
            return None
        asyncio.get_running_loop().add_reader(held._pidfd, held._on_end)
        return held

    @property
    def over(self) -> bool:
        return self.ended.is_set()

    def send(self, number: int) -> None:
        """A signal, unless it has ended."""
        if self._pidfd >= 0 and not self.over:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Watch no longer."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.epoch.pid, os.WNOHANG)  # in a container we may be the init process that inherits it
        self.ended.set()

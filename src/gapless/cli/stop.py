"""The wish to end a command that runs in the foreground."""

from __future__ import annotations

import asyncio
import signal


class Stop:
    """The first one drains, the second one does not wait. A terminal that goes away wishes it, too."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.down = False
        """Asked for by `gapless down`, and so meant for every control plane of the system."""
        self._times = 0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.ask)

    def ask(self) -> None:
        self._times += 1
        self.asked.set()

    def ask_down(self) -> None:
        self.down = True
        self.ask()

    def at_once(self) -> bool:
        return self._times > 1

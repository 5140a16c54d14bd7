"""A serving worker takes connections out of the queue, as it takes new ones from a listener."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from gapless.server.connections import queue as connection_queue

_log = logging.getLogger("gapless.server")

TURN = 8
"""Connections that are set up per turn of the loop: about a millisecond, so that requests under way do not wait."""
REST_S = 0.001
"""What a worker leaves the others to take the next packet, when there are any: else the one that wakes up first would
get nearly all."""
PAUSE_S = 0.2
"""How long a worker without free descriptors leaves connections to the others."""


class Taker:
    """`start` it when this worker serves, `stop` it when it leaves."""

    def __init__(self, into: socket.socket, protocol: Callable[[], asyncio.Protocol], workers: int) -> None:
        self._into = into
        self._protocol = protocol
        self.share(workers)
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._stopped = True

    def share(self, workers: int) -> None:
        """So many take from the queue."""
        self._rest_s = REST_S if workers > 1 else 0.0

    def start(self) -> None:
        self._stopped = False
        self._listen()

    def pause(self) -> None:
        """Take no more until `start`."""
        self._stopped = True
        self._deafen()
        if self._again is not None:
            self._again.cancel()

    def stop(self, *, last: bool) -> None:
        """Take no more. `last`: nobody else will, so what is in the queue by now is taken."""
        self.pause()
        while last and (fds := self._receive()) is not None:
            self.adopt(fds)

    async def settled(self) -> None:
        """Returns when everything that was taken has its protocol."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def adopt(self, fds: Sequence[int]) -> asyncio.Task[None]:
        """Go on with these connections."""
        task = asyncio.get_running_loop().create_task(self._set_up(fds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _listen(self) -> None:
        self._again = None
        if not self._stopped:
            asyncio.get_running_loop().add_reader(self._into.fileno(), self._readable)

    def _deafen(self) -> None:
        asyncio.get_running_loop().remove_reader(self._into.fileno())

    def _readable(self) -> None:
        fds = self._receive()
        if fds:
            self._deafen()
            self.adopt(fds).add_done_callback(lambda _: self._listen_in(self._rest_s))

    def _receive(self) -> list[int] | None:
        try:
            return connection_queue.receive(self._into)
        except OSError as error:
            _log.error("cannot take connections over for want of descriptors, pausing for %g s: %s", PAUSE_S, error)
            self._deafen()
            self._listen_in(PAUSE_S)
            return None

    def _listen_in(self, delay_s: float) -> None:
        if not self._stopped:
            self._again = asyncio.get_running_loop().call_later(delay_s, self._listen)

    async def _set_up(self, fds: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        for number, fd in enumerate(fds, 1):
            connection = socket.socket(fileno=fd)
            connection.setblocking(False)
            try:
                await loop.connect_accepted_socket(self._protocol, connection)
            except OSError as error:
                connection.close()
                _log.debug("a client was gone before its connection was taken over: %s", error)
            if number % TURN == 0:
                await asyncio.sleep(0)

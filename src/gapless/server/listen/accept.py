"""Our own accept loop. A loop's `Server.close()` can drop connections that were accepted in the same tick; here what
was accepted is always served, and what was not stays in the kernel's queue for the workers that share the listener.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl import SSLContext

_log = logging.getLogger("gapless.server")

ALONE_BATCH = 64
SHARED_BATCH = 1
"""Connections accepted per turn of the loop: one where other workers wait for the same listener, so that a proxy's few
long-lived connections are spread over them."""
PAUSE_S = 0.2
"""How long a worker without free descriptors leaves new connections to the others."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def batch_of(workers: int) -> int:
    """For a server with so many workers."""
    return ALONE_BATCH if workers == 1 else SHARED_BATCH


class Acceptor:
    """Accepts from one shared, non-blocking listener. Never calls settimeout or setblocking on it: O_NONBLOCK belongs
    to the open socket, and changing it would freeze the other workers inside accept()."""

    def __init__(
        self,
        sock: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        batch: int,
        tls: Callable[[], SSLContext] | None = None,
    ) -> None:
        """With `tls`, which is asked anew for each connection, `protocol` is made after the handshake."""
        self._sock = sock
        self._tls = tls
        self._protocol = protocol
        self.batch = batch
        self._greeting: set[asyncio.Task[object]] = set()
        self._resume: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._resume = None
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept_some)

    def pause(self) -> None:
        """Accept no more until `start`."""
        if self._resume is not None:
            self._resume.cancel()
        asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def stop(self, *, last: bool) -> None:
        """Accept no more and let go of the listener. `last`: nobody else will, so what is queued by now is taken."""
        self.pause()
        while last and self._accept():
            continue
        self._sock.close()

    async def greeted(self) -> None:
        """Returns when everything that was accepted has its protocol. Handshakes of TLS go on: they may take as long
        as their clients like."""
        while self._greeting and self._tls is None:
            await asyncio.wait(self._greeting)

    async def shaken(self, limit_s: float) -> bool:
        """Returns when these have ended, too; False when the limit passed first."""
        if self._greeting:
            await asyncio.wait(self._greeting, timeout=max(limit_s, 0.0))
        return not self._greeting

    def _accept_some(self) -> None:
        for _ in range(self.batch):
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Accept one; False when there is none (left for us)."""
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True  # that client has gone already
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._exhausted(error)
            return False
        connection.setblocking(False)
        self._greet(connection)
        return True

    def _greet(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._tls is None:
            task = loop.create_task(_connect(loop, self._protocol, connection))
        else:
            from gapless.server.tls.greet import greet  # a master, which has no TLS, accepts as well

            task = loop.create_task(greet(self._protocol, connection, self._tls()))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    def _exhausted(self, error: OSError) -> None:
        _log.error("cannot accept for want of resources, pausing for %g s: %s", PAUSE_S, error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock.fileno())
        self._resume = loop.call_later(PAUSE_S, self.start)


async def _connect(
    loop: asyncio.AbstractEventLoop, protocol: Callable[[], asyncio.Protocol], connection: socket.socket
) -> None:
    try:
        await loop.connect_accepted_socket(protocol, connection)
    except OSError as error:
        connection.close()
        _log.debug("a client was gone before its connection was set up: %s", error)

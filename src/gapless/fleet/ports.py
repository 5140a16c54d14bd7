"""Loopback ports for instances.

They are taken from below the range that the kernel gives to outgoing connections: a port from inside it can be gone
between the moment when it was free and the moment when the instance binds it, all the sooner under load.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

from gapless.core.errors import InstanceFailed
from gapless.core.model.network import LOOPBACK
from gapless.core.ports import World

LOWEST = 20_000
"""Well-known servers and their common alternatives listen below."""
FEWEST = 1_000
"""With fewer ports below the outgoing range than this, any port will do."""
TRIES = 100
REMEMBERED = 500
"""Ports handed out lately are not handed out again: an instance that is being started has not bound its own yet."""

_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Ports:
    """Hands out ports that are free."""

    def __init__(self, world: World, host: str = LOOPBACK) -> None:
        self._world = world
        self._host = host
        self._recent: deque[int] = deque(maxlen=REMEMBERED)

    async def allocate(self) -> int:
        """A free port. Raises InstanceFailed when none is found."""
        below = read_outgoing(_OUTGOING)
        for _ in range(TRIES):
            port = pick(self._world.random(), below) or self._world.free_port(self._host)
            if port not in self._recent and await _is_free(self._host, port):
                self._recent.append(port)
                return port
        raise InstanceFailed(f"no free port on {self._host} in {TRIES} tries", "See what listens there: `ss -ltn`.")


def pick(dice: float, below: int) -> int:
    """A port from LOWEST to below the outgoing range, 0 when there are too few. `dice` is uniform in [0, 1)."""
    room = below - LOWEST
    return LOWEST + int(dice * room) if room >= FEWEST else 0


def read_outgoing(path: Path) -> int:
    """The lowest port of outgoing connections; 0 when the kernel does not say."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


async def _is_free(host: str, port: int) -> bool:
    try:
        server = await asyncio.start_server(lambda _, writer: writer.close(), host, port)
    except OSError:
        return False
    server.close()
    await server.wait_closed()
    return True

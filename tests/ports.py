"""Ports for the servers that tests start: none of those that the system lends to clients, which may take one between
our look and the server's bind; and of the test runner's processes, each has its own."""

from __future__ import annotations

import os
import socket
from itertools import count

FIRST, EACH, PROCESSES = 10_000, 2_000, 5
"""Below 20,000, where the fleet looks for its own, and below the range of `ip_local_port_range`."""

_numbers = count()


def free_port(host: str = "127.0.0.1") -> int:
    """One that nobody listens on now, and that this run has not given to anybody before (or long ago)."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
    for _ in range(EACH):
        port = FIRST + process * EACH + (next(_numbers) + os.getpid() * 7) % EACH
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"no port is free from {FIRST} on")

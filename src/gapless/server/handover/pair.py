"""The channel between a master and a worker, before anybody speaks on it."""

from __future__ import annotations

import socket


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends, neither of which blocks. Both see the sender of each packet from the first one on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs

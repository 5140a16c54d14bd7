"""A listener that is handed over, and what it is called."""

from __future__ import annotations

import socket

from gapless.server.handover.handover import HandoverBroken


def listener_name(sock: socket.socket) -> str:
    """What a listener is called in FDS: `listen:` and its address as the kernel tells it."""
    return f"listen:{sock.getsockname()!r}"


def check_listener(name: str, fd: int) -> socket.socket:
    """The listener behind a descriptor. Raises HandoverBroken when it does not listen, or not at the address that its
    name tells. Its O_NONBLOCK, shared by all who hold it, is left alone."""
    try:
        sock = socket.socket(fileno=fd)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise HandoverBroken(f"descriptor {fd}, handed over as {name}, is no socket: {error}") from error
    if not listens or listener_name(sock) != name:
        found = listener_name(sock)
        sock.detach()
        raise HandoverBroken(f"descriptor {fd} was handed over as {name}, but is {found}, listening: {bool(listens)}")
    return sock

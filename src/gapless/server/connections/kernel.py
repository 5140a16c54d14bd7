"""What the kernel knows of a connection, and does with it when asked."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

_AT_ONCE = struct.pack("ii", 1, 0)


def unread(fd: int) -> bool:
    """Whether the kernel holds bytes of the peer that nobody has read."""
    return any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))


def untaken(transport: asyncio.WriteTransport) -> int:
    """Bytes that we have written and the peer's machine has not taken yet: the transport's and the kernel's. The
    transport's alone tell nothing of a slow client: the kernel asks for more only when a good part of its megabytes is
    gone."""
    sock = transport.get_extra_info("socket")
    queued = 0 if sock is None else int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), "little")
    return transport.get_write_buffer_size() + queued


def reset(transport: asyncio.WriteTransport) -> None:
    """End it visibly, so that nobody takes what has arrived for all; what has not arrived is forgotten."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()

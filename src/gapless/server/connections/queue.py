"""The queue through which live connections pass from workers that leave to workers that serve on.

One SEQPACKET socketpair per server. Like a listener it is shared by all workers, and outlives each of them: what
nobody takes for a moment waits in the kernel, and neither the client nor its bytes notice. A packet is the version, the
kind of the connections as JSON, and their descriptors (SCM_RIGHTS). Nobody who holds an end of it is a stranger.
"""

from __future__ import annotations

import array
import errno
import json
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gapless.server.handover.handover import HandoverBroken

_log = logging.getLogger("gapless.server")

VERSION = 1
HTTP1 = "http/1.1"
"""Plain HTTP/1.1 between two messages: the only kind so far."""
NAMES = ("queue:out", "queue:in")
"""What its ends are called in FDS, in the order of `Ends`."""
PACKET_FDS = 64
"""Few enough to be adopted within a few milliseconds, and far below the kernel's 253."""
SHARES = 4
"""Packets per worker that a worker's connections are divided into: the quicker ones take more of them."""
PACKET_BYTES = 4096
QUEUED_BYTES = 8192
"""Room for a few packets only: a connection whose client is about to ask must not wait behind thousands."""
_FULL = frozenset({errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})


class Ends(NamedTuple):
    """Both ends are given to every worker: any may have to leave, any may take over."""

    out: socket.socket
    into: socket.socket


def open_queue() -> Ends:
    """Made once per server. Neither end blocks."""
    ends = Ends(*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUED_BYTES)
    return ends


def close(ends: Ends) -> None:
    for end in ends:
        end.close()


def share(count: int, workers: int) -> int:
    """How many of `count` connections go into one packet, so that all of `workers` get some."""
    return max(1, min(PACKET_FDS, -(-count // (workers * SHARES))))


def content(kind: str = HTTP1) -> bytes:
    return bytes((VERSION,)) + json.dumps({"kind": kind}).encode()


def understood(packet: bytes) -> bool:
    """Whether this version can go on with what comes along with the packet."""
    if packet[:1] != bytes((VERSION,)):
        return False
    try:
        return bool(json.loads(packet[1:])["kind"] == HTTP1)
    except (ValueError, KeyError, TypeError):
        return False


def check_end(name: str, fd: int) -> socket.socket:
    """The end behind a descriptor. Raises HandoverBroken."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise HandoverBroken(f"descriptor {fd}, handed over as {name}, is no socket: {error}") from error
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        sock.detach()
        raise HandoverBroken(f"descriptor {fd} was handed over as {name}, but is no end of a connection queue")
    return sock


def send(out: socket.socket, fds: Sequence[int]) -> bool:
    """Put connections into the queue, all or none, and let go of them. False: it is full at present."""
    try:
        out.sendmsg([content()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return False
    close_all(fds)
    return True


def receive(into: socket.socket) -> list[int] | None:
    """Connections out of the queue; None when it is empty. Raises OSError (EMFILE) when there is no room for as many
    descriptors as a packet may bring: the kernel would drop those that do not fit."""
    _make_sure_of_room(into.fileno())
    room = socket.CMSG_SPACE(PACKET_FDS * array.array("i").itemsize)
    try:
        packet, control, flags, _ = into.recvmsg(PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, InterruptedError):
        return None
    fds = [fd for _, kind, data in control if kind == socket.SCM_RIGHTS for fd in _numbers(data)]
    if flags & socket.MSG_CTRUNC:
        _log.error("connections were lost for want of descriptors: raise the limit on open files (ulimit -n)")
    if understood(packet):
        return fds
    _log.warning("%d connections came from a version that is not understood (%r), and are closed", len(fds), packet)
    refuse(fds)
    return []


def refuse(fds: Iterable[int]) -> None:
    """Close them in order: a close over unread bytes would reset the connection."""
    for fd in fds:
        with socket.socket(fileno=fd) as sock:
            try:
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65_536):
                    continue
            except OSError as error:
                _log.debug("closing a connection: %s", error)


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _make_sure_of_room(fd: int) -> None:
    taken: list[int] = []
    try:
        taken.extend(os.dup(fd) for _ in range(PACKET_FDS))
    finally:
        close_all(taken)


def _numbers(data: bytes) -> array.array[int]:
    return array.array("i", data[: len(data) - len(data) % 4])

"""One question to a running server's admin socket, from a process without an event loop."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from gapless.core.errors import UnknownName
from gapless.server.listen.bind import connected

SUCCESSION_S = 10.0
"""Plenty for another master to begin, also on a busy machine."""
LOOK_S = 0.1


class Said(NamedTuple):
    status: int
    body: Any


def ask_lines(path: str, method: str, target: str, limit_s: float) -> Iterator[Any]:
    """The same for an answer in JSON lines: each as soon as it comes, `limit_s` for each. An answer that is no such
    stream is yielded as one, with its `status`."""
    with _asked(path, method, target, limit_s) as stream:
        status = int(stream.readline().split(b" ", 2)[1] or 0)
        while stream.readline().strip():
            continue
        for number, line in enumerate(stream):
            value = json.loads(line)
            yield {"status": status, **value} if status != 200 and not number else value


def _asked(path: str, method: str, target: str, limit_s: float) -> Any:
    sock = _connected(path)
    sock.settimeout(limit_s)
    sock.sendall(f"{method} {target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
    stream = sock.makefile("rb")
    sock.close()  # the stream keeps it open
    return stream


def ask(path: str, method: str, target: str, limit_s: float) -> Said:
    """Raises UnknownName when no server listens there, TimeoutError, or ConnectionError when it vanishes meanwhile."""
    status, content = fetch(path, method, target, limit_s)
    return Said(status, json.loads(content))


def fetch(path: str, method: str, target: str, limit_s: float) -> tuple[int, bytes]:
    """The same for what is not JSON: the status, and the content as it is."""
    with _asked(path, method, target, limit_s) as stream:
        data = stream.read()
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        raise ConnectionError(f"the server at {path} ended before it answered")
    return int(head.split(b" ", 2)[1]), body


def _connected(path: str) -> socket.socket:
    try:
        return connected(path)
    except OSError as error:
        raise UnknownName(
            f"no server listens on {path} ({error.strerror or error})",
            "Give the socket with --admin: `gapless serve` prints it when it is ready.",
        ) from error


def settled(path: str, limit_s: float) -> Any:
    """The server's status, once nothing is being changed any more. For whoever was waiting for a change when the
    server's master ended: another one goes on with it. Raises UnknownName when the server has ended as well."""
    end = time.monotonic() + limit_s
    alone_until = time.monotonic() + SUCCESSION_S
    while True:
        try:
            status = ask(path, "GET", "/status", SUCCESSION_S).body
        except (UnknownName, ConnectionError, TimeoutError):
            if time.monotonic() > alone_until:
                raise
        else:
            if not status["changing"] or time.monotonic() > end:
                return status
        time.sleep(LOOK_S)

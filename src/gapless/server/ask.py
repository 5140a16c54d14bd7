"""One question to a running server's admin socket, from a process without an event loop."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from gapless.core.errors import UnknownName
from gapless.server.bind import connected


class Said(NamedTuple):
    status: int
    body: Any


def ask(path: str, method: str, target: str, limit_s: float) -> Said:
    """Raises UnknownName when no server listens there, TimeoutError, or ConnectionError when it vanishes meanwhile."""
    try:
        sock = connected(path)
    except OSError as error:
        raise UnknownName(
            f"no server listens on {path} ({error.strerror or error})",
            "Give the socket with --admin: `gapless serve` prints it when it is ready.",
        ) from error
    with sock:
        sock.settimeout(limit_s)
        sock.sendall(f"{method} {target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
        data = b""
        while received := sock.recv(65_536):
            data += received
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        raise ConnectionError(f"the server at {path} ended before it answered")
    return Said(int(head.split(b" ", 2)[1]), json.loads(body))

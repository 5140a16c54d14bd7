"""Envoy's admin interface over its Unix socket: as much HTTP as that takes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

from gapless.core.errors import GaplessError

LIMIT_S = 5.0
"""Envoy's main thread answers in milliseconds; one that does not is stuck."""

ACTIVE = "http.gapless.downstream_rq_active"
"""Requests that are under way."""


async def ask(socket: Path, method: str, path: str) -> str:
    """The body of the answer. Raises GaplessError when there is none, or when it is not a 200."""
    try:
        async with asyncio.timeout(LIMIT_S):
            status, body = await _exchange(socket, method, path)
    except (OSError, TimeoutError) as error:
        raise GaplessError(f"Envoy's admin socket {socket} does not answer: {error!r}") from error
    if status != 200:
        raise GaplessError(f"Envoy's admin interface answers {status} to {method} {path}: {body}")
    return body


async def drain(socket: Path) -> None:
    """Tell every client to leave: responses say `Connection: close` from now on."""
    await ask(socket, "POST", "/drain_listeners?graceful")


@dataclass(frozen=True, slots=True)
class Server:
    """`live`: its workers accept. `version` is Envoy's own, as `1.40.0`."""

    epoch: int
    live: bool
    version: str


async def server(socket: Path) -> Server:
    """Who answers at the socket."""
    told = json.loads(await ask(socket, "GET", "/server_info"))
    parts = str(told.get("version", "")).split("/")
    epoch = int(told.get("command_line_options", {}).get("restart_epoch", 0))
    return Server(epoch, told.get("state") == "LIVE", parts[1] if len(parts) > 1 else parts[0])


async def ejected(socket: Path) -> list[tuple[str, str]]:
    """Cluster and address (`host:port`) of each that its outlier detection has ejected."""
    told = json.loads(await ask(socket, "GET", "/clusters?format=json"))
    found = []
    for cluster in told.get("cluster_statuses", ()):
        for host in cluster.get("host_statuses", ()):
            place = host.get("address", {}).get("socket_address", {})
            if host.get("health_status", {}).get("failed_outlier_check"):
                found.append((str(cluster["name"]), f"{place.get('address')}:{place.get('port_value')}"))
    return sorted(found)


async def active_requests(socket: Path) -> int:
    """Requests under way."""
    text = await ask(socket, "GET", f"/stats?filter=^{ACTIVE}$")
    return int(text.partition(":")[2] or 0)


@dataclass(slots=True)
class _Body:
    """Receives the parser's calls."""

    parts: list[bytes] = field(default_factory=list)

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)


async def _exchange(socket: Path, method: str, path: str) -> tuple[int, str]:
    import httptools

    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.read()
    finally:
        writer.close()
    body = _Body()
    parser = httptools.HttpResponseParser(body)
    parser.feed_data(answer)
    return parser.get_status_code(), b"".join(body.parts).decode()

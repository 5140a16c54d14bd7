"""Where Envoys come in: the Unix socket for the one of this machine, and perhaps an address for gateways elsewhere."""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from gapless.core.errors import CertificateRefused, GaplessError, GatewayMissing, PortTaken
from gapless.core.model import Door
from gapless.gateway.envoy.entries import LOGS, message_class
from gapless.gateway.envoy.listener import AUTHORIZATION
from gapless.gateway.envoy.protos import Messages

_log = logging.getLogger("gapless.gateway.xds")

DISCOVERY = "envoy.service.discovery.v3."

ALIVE_S, ANSWER_S = 15, 15
"""A gateway that says nothing for so long is asked for a sign of life, and left after as long without one: a machine
that is gone does not close its connections."""

OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""Who comes in is an Envoy of ours; a thousand services in one response are more than gRPC's 4 MiB."""
AWAY_OPTIONS = (
    *OPTIONS,
    ("grpc.so_reuseport", 0),  # a forgotten control plane must not share the address silently
    ("grpc.keepalive_time_ms", ALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", ANSWER_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),  # Envoy asks for signs of life, too
)

STRANGERS = 100
"""Of whom is remembered that the log tells of them."""

Streams = Callable[[AsyncIterator[Any], Any, bool], AsyncIterator[bytes]]
"""(requests, context, whether it is elsewhere) → responses."""
Logs = Callable[[Any], None]


class Doors:
    """The gRPC servers. `streams` answers discovery, `logs` takes entries of an access log."""

    def __init__(self, socket: Path, door: Door | None, messages: Messages, streams: Streams, logs: Logs) -> None:
        self._socket = socket
        self._door = door
        self._messages = messages
        self._streams = streams
        self._logs = logs
        self._servers: list[Any] = []
        self._strangers: set[str] = set()

    async def start(self) -> None:
        """Listen. Raises GatewayMissing when grpcio is not installed, GaplessError when the socket cannot be made,
        PortTaken, CertificateRefused."""
        try:
            import grpc
        except ImportError as error:
            raise GatewayMissing(f"the gateway's packages are not installed: {error}") from error
        try:
            await self._open_local(grpc)
            if self._door:
                await self._open_away(grpc, self._door)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        servers, self._servers = self._servers, []
        for server in servers:
            await server.stop(grace=0.2)

    async def _open_local(self, grpc: Any) -> None:
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(self._handlers(grpc, away=False))
        try:
            server.add_insecure_port(f"unix:{self._socket}")
        except RuntimeError as error:
            raise GaplessError(
                f"cannot listen on {self._socket}: {error}",
                "A Unix socket's path has at most 107 bytes and a writable directory: choose another --state.",
            ) from error
        os.chmod(self._socket, 0o600)
        self._servers.append(server)
        await server.start()

    async def _open_away(self, grpc: Any, door: Door) -> None:
        server = grpc.aio.server(options=AWAY_OPTIONS)
        server.add_generic_rpc_handlers(self._handlers(grpc, away=True))
        where = str(door.listen)
        try:
            if door.cert:
                server.add_secure_port(where, _credentials(grpc, door))
            else:
                server.add_insecure_port(where)
        except RuntimeError as error:
            raise PortTaken(
                f"gateways cannot be served at {where}: {error}",
                f"Find who has it with `ss -ltnp 'sport = :{door.listen.port}'`, or change gateway.xds.",
            ) from error
        self._servers.append(server)
        await server.start()

    def _handlers(self, grpc: Any, *, away: bool) -> tuple[Any, ...]:
        async def streams(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
            await self._check(grpc, context, away)
            async for data in self._streams(requests, context, away):
                yield data

        async def logs(request: Any, context: Any) -> bytes:
            await self._check(grpc, context, away)
            self._logs(request)
            return b""

        asked = self._messages.message(DISCOVERY + "DeltaDiscoveryRequest").FromString
        stream = grpc.stream_stream_rpc_method_handler(streams, request_deserializer=asked)
        log = grpc.unary_unary_rpc_method_handler(logs, request_deserializer=message_class().FromString)
        handler = grpc.method_handlers_generic_handler
        return (
            handler(DISCOVERY + "AggregatedDiscoveryService", {"DeltaAggregatedResources": stream}),
            handler(LOGS, {"Export": log}),
        )

    async def _check(self, grpc: Any, context: Any, away: bool) -> None:
        """Ends the call of who does not show the token."""
        token = self._door.token if self._door and away else ""
        if token and not shown(context.invocation_metadata() or (), token):
            self._complain(context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token of gateway.xds is missing or another one")

    def _complain(self, peer: str) -> None:
        """Once for each connection: over one, it asks again every second."""
        if peer not in self._strangers:
            self._strangers = {*self._strangers, peer} if len(self._strangers) < STRANGERS else {peer}
            _log.warning("a gateway at %s does not show the token", peer)


def shown(metadata: Any, token: str) -> bool:
    """Whether pairs of metadata show it; compared in the same time whatever they show."""
    found = [str(value) for key, value in metadata if key == AUTHORIZATION]
    return any(hmac.compare_digest(value.encode(), f"Bearer {token}".encode()) for value in found)


def _credentials(grpc: Any, door: Door) -> Any:
    try:
        pair = (Path(door.key).read_bytes(), Path(door.cert).read_bytes())
        ca = Path(door.client_ca).read_bytes() if door.client_ca else None
    except OSError as error:
        raise CertificateRefused(
            f"{error.filename} of gateway.xds.tls cannot be read: {error.strerror}", "Put a PEM file there."
        ) from error
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=bool(ca))

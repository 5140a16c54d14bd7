"""The aggregated discovery service: delta xDS over gRPC on a Unix socket, and beside it the sink of the access log.

A thin loop around `delta.Connection`: bytes become events, decisions become bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gapless.core.errors import GaplessError, GatewayMissing, TrafficRefused
from gapless.gateway.envoy.delta import Asked, Connection, Snapshot, Told
from gapless.gateway.envoy.protos import Messages
from gapless.gateway.envoy.words import plain

_log = logging.getLogger("gapless.gateway.xds")

_DELTA = "envoy.service.discovery.v3."
_ALS = "envoy.service.accesslog.v3."

OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""The socket is ours and Envoy's alone; a thousand services in one response are more than gRPC's 4 MiB."""


class Refused(GaplessError):
    """Envoy refused; `what` is its own words."""


@dataclass(slots=True, eq=False)
class Link:
    """A connected Envoy: what it has, and the responses on their way to it."""

    state: Connection = field(default_factory=Connection)
    outbox: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)


class XdsServer:
    """Serves one truth to every Envoy that connects."""

    def __init__(
        self, messages: Messages, socket: Path, on_refused: Callable[[str], None], on_log: Callable[[Any], None]
    ) -> None:
        self._messages = messages
        self._socket = socket
        self._on_refused = on_refused
        self._on_log = on_log
        self._links: set[Link] = set()
        self._truth: Snapshot | None = None
        self._refusal = ""
        self._waiters: set[asyncio.Event] = set()
        self._server: Any = None

    @property
    def connected(self) -> int:
        """Envoys that are connected now."""
        return len(self._links)

    @property
    def settled(self) -> bool:
        """An Envoy is connected, and all that are have acknowledged the present truth."""
        return self._truth is not None and self._settled(self._truth)

    async def start(self) -> None:
        """Listen. Raises GatewayMissing when grpcio is not installed, GaplessError when the socket cannot be made."""
        try:
            import grpc
        except ImportError as error:
            raise GatewayMissing(f"the gateway's packages are not installed: {error}") from error
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers(self._handlers(grpc))
        try:
            self._server.add_insecure_port(f"unix:{self._socket}")
        except RuntimeError as error:
            raise GaplessError(
                f"cannot listen on {self._socket}: {error}",
                "A Unix socket's path has at most 107 bytes and a writable directory: choose another --state.",
            ) from error
        os.chmod(self._socket, 0o600)
        await self._server.start()

    async def stop(self) -> None:
        """Close the streams; the Envoys go on with what they have."""
        for link in tuple(self._links):
            link.outbox.put_nowait(None)
        if self._server is not None:
            await self._server.stop(grace=0.2)
            self._server = None

    async def publish(self, truth: Snapshot, limit_s: float) -> None:
        """Make it the truth and wait until every connected Envoy (at least one) has acknowledged it.

        Raises Refused with Envoy's words; the refused truth stays until another is published. Raises GatewayMissing
        when no Envoy has connected within the limit, and TrafficRefused when one has but does not answer; the truth
        then stays for whoever connects next.
        """
        self._refusal = ""
        self._truth = truth
        for link in self._links:
            self._push(link)
        try:
            async with asyncio.timeout(limit_s):
                await self.until(lambda: bool(self._refusal) or self._settled(truth))
        except TimeoutError:
            raise self._overdue(limit_s) from None
        if self._refusal:
            raise Refused(self._refusal)

    def retract(self, truth: Snapshot | None) -> None:
        """Go back to an earlier truth, without waiting."""
        self._truth = truth
        for link in self._links:
            self._push(link)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds; looked at whenever an Envoy connects, answers or leaves."""
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            while not condition():
                event.clear()
                await event.wait()
        finally:
            self._waiters.discard(event)

    def _settled(self, truth: Snapshot) -> bool:
        return bool(self._links) and all(link.state.settled(truth) for link in self._links)

    def _overdue(self, limit_s: float) -> GaplessError:
        if not self._links:
            return GatewayMissing(
                f"no Envoy has connected to {self._socket} within {limit_s:g} s",
                "See logs/envoy.log in the state directory; the routes are kept for it.",
            )
        return TrafficRefused(
            f"Envoy has not acknowledged the routes within {limit_s:g} s",
            "See logs/envoy.log in the state directory; the machine may be overloaded.",
        )

    def _push(self, link: Link) -> None:
        while (told := link.state.next(self._truth)) is not None:
            link.outbox.put_nowait(self._encode(told))

    def _notify(self) -> None:
        for event in self._waiters:
            event.set()

    def _handlers(self, grpc: Any) -> tuple[Any, ...]:
        streams = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=self._messages.message(_DELTA + "DeltaDiscoveryRequest").FromString
        )
        logs = grpc.stream_unary_rpc_method_handler(
            self._logs, request_deserializer=self._messages.message(_ALS + "StreamAccessLogsMessage").FromString
        )
        return (
            grpc.method_handlers_generic_handler(
                _DELTA + "AggregatedDiscoveryService", {"DeltaAggregatedResources": streams}
            ),
            grpc.method_handlers_generic_handler(_ALS + "AccessLogService", {"StreamAccessLogs": logs}),
        )

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        link = Link()
        self._links.add(link)
        reader = asyncio.create_task(self._read(link, requests))
        try:
            while (data := await link.outbox.get()) is not None:
                yield data
        finally:
            self._links.discard(link)
            self._notify()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _read(self, link: Link, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                self._take(link, _asked(request))
        finally:
            link.outbox.put_nowait(None)

    def _take(self, link: Link, request: Asked) -> None:
        refusal = link.state.asked(request)
        if refusal is not None:
            _log.error("Envoy refuses %s: %s", request.type_url, refusal.text)
            if refusal.truth is self._truth:
                self._refusal = refusal.text
            self._on_refused(refusal.text)
        self._push(link)
        self._notify()

    async def _logs(self, requests: AsyncIterator[Any], context: Any) -> bytes:
        async for message in requests:
            self._on_log(message)
        return b""

    def _encode(self, told: Told) -> bytes:
        response = self._messages.message(_DELTA + "DeltaDiscoveryResponse")(
            type_url=told.type_url, nonce=told.nonce, removed_resources=told.removed
        )
        for name, item in told.items.items():
            resource = response.resources.add(name=name, version=item.version)
            resource.resource.type_url = told.type_url
            resource.resource.value = item.data
        return bytes(response.SerializeToString())


def _asked(request: Any) -> Asked:
    error = plain(request.error_detail.message) if request.HasField("error_detail") else ""
    return Asked(
        type_url=request.type_url,
        subscribe=tuple(request.resource_names_subscribe),
        unsubscribe=tuple(request.resource_names_unsubscribe),
        initial=dict(request.initial_resource_versions),
        nonce=request.response_nonce,
        error=error,
    )

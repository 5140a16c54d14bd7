"""A grpc.aio channel to a service rather than to a server: each call goes to an instance that is chosen for it.

    async with ServiceChannel("inventory", discovery="consul://127.0.0.1:8500") as channel:
        stub = InventoryStub(channel)
        stock = await stub.Reserve(request, timeout=2.0, metadata=[("idempotency-key", key)])

grpc in Python has no resolvers or balancers that could be added, so there is a channel per instance inside, and the
choice is made outside of it, for all four kinds of calls. A call that has reached nobody goes to the next instance. One
that was perhaps answered is made again only if it is unary and has an `idempotency-key`, or its method is `idempotent`.
Headers of the request being served (trace, user, request id) and the deadline go along. Without a timeout, unary calls
get the service's own, and calls with streams none. `wait_for_ready` goes on while nobody can be reached.

Needs grpcio (`gapless[grpc]`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any

import grpc

from gapless.core.model import ServiceTable
from gapless.service.grpc_picked import Asked, ManyAnswers, OneAnswer, OneAsked
from gapless.service.grpc_places import OPTIONS, READY, Places
from gapless.service.outbound import Outbound

KINDS: dict[str, type[Any]] = {
    "unary_unary": OneAsked,
    "unary_stream": ManyAnswers,
    "stream_unary": OneAnswer,
    "stream_stream": ManyAnswers,
}


class ServiceChannel(grpc.aio.Channel):  # type: ignore[misc]
    """`credentials`, `interceptors` and `options` are those of `grpc.aio.secure_channel`, for the channel to each
    instance; with credentials, the servers' certificates are asked for by the name `tls_name` (default: the
    service's). `idempotent` are the names of methods that may be called twice (`/inventory.Inventory/Get`). The others
    are those of `service.outbound.Outbound`: discovery, directory, balance, zone, policy, meter."""

    def __init__(
        self,
        service: str,
        *,
        credentials: Any = None,
        tls_name: str = "",
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
        idempotent: Collection[str] = (),
        **outbound: Any,
    ) -> None:
        self.service = service
        self.idempotent = frozenset(idempotent)
        self.outbound = Outbound(**outbound)
        self.callee = self.outbound.callee(service)
        self.places = Places(self._channel, self.outbound.world)
        self._credentials, self._interceptors = credentials, list(interceptors)
        named = (("grpc.ssl_target_name_override", tls_name or service),) if credentials else ()
        self._options = [*OPTIONS, *named, *options]
        self._table: ServiceTable | None = None
        self._closed = False

    async def __aenter__(self) -> ServiceChannel:
        await self.callee.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Calls under way may end within `grace` seconds; None: they are cancelled at once."""
        self._closed = True
        await self.places.close(grace)
        await self.outbound.aclose()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY when an instance is known: connections are made when calls need them."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        return READY if self.callee.known else grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        while self.get_state() is last_observed_state:
            await self.callee.changed()

    async def channel_ready(self) -> None:
        """Returns once an instance is known."""
        await self.callee.start()
        while not self.callee.known:
            await self.callee.changed()

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return Method(self, "unary_unary", method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return Method(self, "unary_stream", method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return Method(self, "stream_unary", method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return Method(self, "stream_stream", method, request_serializer, response_deserializer)

    def keep_to(self, table: ServiceTable) -> None:
        """Channels to instances that are not listed any more are closed."""
        if table is not self._table:
            self._table = table
            self.places.keep({each.address for each in table.endpoints})

    def _channel(self, target: str) -> Any:
        if self._credentials is None:
            return grpc.aio.insecure_channel(target, options=self._options, interceptors=self._interceptors)
        return grpc.aio.secure_channel(
            target, self._credentials, options=self._options, interceptors=self._interceptors
        )


class Method:
    """What stubs call, as `grpc.aio.UnaryUnaryMultiCallable` and its like."""

    def __init__(self, channel: ServiceChannel, kind: str, name: str, serializer: Any, deserializer: Any) -> None:
        self.channel, self.kind, self.name = channel, kind, name
        self._codecs = (serializer, deserializer)

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """The call, under way. Needs a running loop."""
        asked = Asked(
            request=request,
            timeout_s=timeout,
            metadata=tuple(metadata or ()),
            patient=bool(wait_for_ready),
            options={"credentials": credentials, "compression": compression},
        )
        return KINDS[self.kind](self, asked, asyncio.get_running_loop())

    def at(self, channel: Any) -> Any:
        """The same method of one instance."""
        return getattr(channel, self.kind)(self.name, *self._codecs)

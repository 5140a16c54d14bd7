"""The service kit around gRPC servicers, for `gapless serve --grpc`.

    def add(server):
        orders_pb2_grpc.add_OrdersServicer_to_server(Orders(), server)

Such a function is enough. What else the kit can do is had by a service around it:

    service = GrpcService("orders", add)

    @service.resource
    async def database():
        async with connect() as connection:
            yield connection

`add` is called on the event loop when the resources are open, and may be async. What it is given takes everything that
generated code adds to a `grpc.aio.Server`; interceptors and options go into `server.interceptors` and `server.options`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import grpc

from gapless.core.errors import AppError, ConfigError
from gapless.service import loader
from gapless.service.grpc_calls import Calls
from gapless.service.kit import Service

Add = Callable[["Registrations"], Any]


class Registrations(grpc.aio.Server):  # type: ignore[misc]
    """What is to be served, as generated code adds it. Where and when is not its business."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []
        self.methods: dict[str, dict[str, Any]] = {}
        self.interceptors: list[grpc.aio.ServerInterceptor] = []
        self.options: list[tuple[str, Any]] = []
        """As `grpc.aio.server(options=…)` takes them."""
        self.reflection = True
        """Whether the server tells its methods to whoever asks."""

    def __del__(self) -> None:
        """There is no server behind it that would have to be shut down."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self.handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        self.methods.setdefault(service_name, {}).update(method_handlers)

    def add_insecure_port(self, address: str) -> int:
        raise ConfigError(f"the app listens on {address} by itself", "Leave that to gapless serve: --bind HOST:PORT.")

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        return self.add_insecure_port(address)

    async def start(self) -> None:
        raise ConfigError("the app starts its server by itself", "Only add the servicers to it.")

    async def stop(self, grace: float | None) -> None:
        raise ConfigError("the app stops its server by itself", "Leave that to gapless serve.")

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        raise ConfigError("the app waits for the end of its server", "Return instead.")

    @property
    def names(self) -> frozenset[str]:
        """Those of the services that it has."""
        own = (handler.service_name() for handler in self.handlers if isinstance(handler, grpc.ServiceRpcHandler))
        return frozenset(self.methods) | frozenset(own)


class GrpcService(Service):
    """A service whose requests are gRPC calls. `options` are those of `Service`."""

    def __init__(self, name: str | None, add: Add, **options: Any) -> None:
        super().__init__(name, **options)
        self._add = add

    @cached_property
    def calls(self) -> Calls:
        self.say_who()
        return Calls(self.world, self.meter, self.tracing, pin=self._configuration.pin)

    @property
    def traffic(self) -> Calls:
        return self.calls

    async def register(self) -> Registrations:
        """Have the author add what is to be served. Raises AppError."""
        found = Registrations()
        try:
            pending = self._add(found)
            if inspect.isawaitable(pending):
                await pending
        except Exception as error:
            if isinstance(error, ConfigError):
                raise
            raise AppError(f"adding the servicers failed:\n{loader.tail(error)}") from error
        if not found.names and not found.handlers:
            raise AppError("no servicer was added", "call add_…Servicer_to_server(servicer, server) in the function")
        return found


def load_grpc(target: str, factory: bool = False) -> GrpcService:
    """The GrpcService that `module:attribute` names; a function that adds servicers is wrapped in one. Raises AppError
    with the last lines of the user's traceback."""
    found = loader.load_target(target, factory)
    if isinstance(found, GrpcService):
        return found
    if isinstance(found, Service) or not _takes_a_server(found):
        raise AppError(f"{target!r} is no gRPC app", "name a function that adds its servicers: def add(server): …")
    return GrpcService(None, found)


def _takes_a_server(found: Any) -> bool:
    try:
        inspect.signature(found).bind(None)
    except (TypeError, ValueError):
        return False
    return not inspect.isclass(found)

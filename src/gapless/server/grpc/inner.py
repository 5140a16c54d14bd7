"""The grpc.aio server of a worker. It listens on a Unix socket that nobody else can reach: its file is removed at once,
and what remains is a descriptor of it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import tempfile
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gapless.service.grpc_health import Health
from gapless.service.grpc_service import GrpcService, Registrations

PROBE_S = 5.0
FULL_S = 0.01
"""How long to wait when the server's backlog is full."""


class Inner:
    """`start` once, then `dial` for each connection, `stop` at the end."""

    def __init__(self, service: GrpcService) -> None:
        self._service = service
        self._numbers = itertools.count(1)
        self._place = -1

    @property
    def started(self) -> bool:
        return self._place >= 0

    async def start(self) -> None:
        """Raises AppError, ConfigError."""
        found = await self._service.register()
        self._server = self._make(found)
        folder = tempfile.mkdtemp(prefix="gapless-")
        path = os.path.join(folder, "grpc")
        try:
            self._server.add_insecure_port(f"unix:{path}")
            await self._server.start()
            self._place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            os.unlink(path)
        finally:
            os.rmdir(folder)

    def _make(self, found: Registrations) -> Any:
        self.health = Health(self._service.unready, found.names)
        interceptors = [self._service.calls, *found.interceptors]
        server = grpc.aio.server(interceptors=interceptors, options=found.options)
        server.add_generic_rpc_handlers(tuple(found.handlers))
        for name, methods in found.methods.items():
            server.add_registered_method_handlers(name, methods)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if found.reflection:
            names = (*sorted(found.names), "grpc.health.v1.Health", reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        return server

    async def probe(self) -> bool:
        """Whether it says that it serves, asked as everybody asks."""
        async with grpc.aio.insecure_channel(f"unix:{self._path}") as channel:
            ask = health_pb2_grpc.HealthStub(channel).Check
            try:
                answer = await ask(health_pb2.HealthCheckRequest(), timeout=PROBE_S)
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def dial(self, protocol: asyncio.BaseProtocol, name: str) -> None:
        """Connect; `name` is the client's address, which `context.peer()` shows behind the name of this process. Raises
        OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(f"\0gapless-{os.getpid()}-{next(self._numbers)}/{name}")
            while not self._connect(sock):  # noqa: ASYNC110 - the kernel does not tell when there is room again
                await asyncio.sleep(FULL_S)
            await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=sock)
        except BaseException:
            sock.close()
            raise

    def _connect(self, sock: socket.socket) -> bool:
        try:
            sock.connect(self._path)
        except BlockingIOError:
            return False
        return True

    @property
    def _path(self) -> str:
        return f"/proc/self/fd/{self._place}"

    async def stop(self, grace_s: float) -> None:
        if self.started:
            await self._server.stop(grace_s)
            os.close(self._place)
            self._place = -1

"""The standard health service (grpc.health.v1), answering from the readiness of the kit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gapless.core.grpc_health import WHY

WHY_BYTES = 1000
"""Of a reason. All metadata of an answer together may have 8 kB."""
Answer = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """`names` are the services that it knows beside "", the server as a whole. `unready` tells why it is not ready."""

    def __init__(self, unready: Callable[[], str], names: frozenset[str]) -> None:
        self._unready = unready
        self._names = names | {""}
        self._refusing = self._ended = False
        self._changed = asyncio.Event()

    def look(self) -> None:
        """Tell watchers what has changed; to be called now and then, and at once when a drain begins."""
        self._changed.set()
        self._changed = asyncio.Event()

    def refuse(self) -> None:
        """The whole server is about to drain."""
        self._refusing = True
        self.look()

    def end(self) -> None:
        """Watching would go on for ever: whoever watches asks the server that comes after."""
        self._ended = True
        self.look()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        if why := self._unready():
            context.set_trailing_metadata(((WHY, why.encode()[:WHY_BYTES]),))
        return Answer(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - the protocol's name
        told = None
        while not self._ended:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                yield Answer(status=status)
                told = status
            await changed.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "this process leaves, ask again")

    def _status(self, name: str) -> int:
        if name not in self._names:
            return int(Answer.SERVICE_UNKNOWN)
        return int(Answer.SERVING if not self._unready() and not self._refusing else Answer.NOT_SERVING)

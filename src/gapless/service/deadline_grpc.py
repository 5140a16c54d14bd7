"""The deadline in calls to gRPC servers: what is left of it becomes the call's timeout, and so its `grpc-timeout`.

    channel = grpc.aio.insecure_channel("127.0.0.1:9000", interceptors=deadlines())

A call's own timeout holds when it is shorter. `x-gapless-deadline-ms` goes with it, for proxies that know nothing of
gRPC. Nothing is begun when the deadline is over: DeadlineExceeded.

A failure that says `grpc-retry-pushback-ms: -1` (gRFC A6) is final: for gRPC's own retries, for a guard's around the
call, and for the callers of the request that is being served (`pushback`). Of streams only the first two hold.

Needs grpcio (`gapless[grpc]`), which is imported by whoever makes the channel.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from gapless.core.ports import World
from gapless.core.world import RealWorld
from gapless.resilience import deadline, pushback
from gapless.resilience.errors import DeadlineExceeded

Continue = Callable[[Any, Any], Awaitable[Any]]


def deadlines(world: World | None = None) -> list[Any]:
    """Interceptors for a channel of grpc.aio: one for each of the four kinds of methods, as it asks for them."""
    now = (world or RealWorld()).now
    return [_UnaryUnary(now), _UnaryStream(now), _StreamUnary(now), _StreamStream(now)]


def bounded(details: Any, now: float) -> Any:
    """The call's details with no more time than is left. Raises DeadlineExceeded."""
    left_s = deadline.remaining(now)
    if left_s == math.inf:
        return details
    if left_s <= 0.0:
        raise DeadlineExceeded(f"the deadline passed before {_name(details.method)} was called", started=False)
    timeout_s = left_s if details.timeout is None else min(details.timeout, left_s)
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata[deadline.HEADER.decode()] = deadline.render(timeout_s).decode()
    return grpc.aio.ClientCallDetails(details.method, timeout_s, metadata, details.credentials, details.wait_for_ready)


def _name(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method


class _Bounding:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    async def call(self, continuation: Continue, details: Any, request: Any) -> Any:
        return await continuation(bounded(details, self._now()), request)

    async def call_once(self, continuation: Continue, details: Any, request: Any) -> Any:
        """The same, for one answer; a final failure is told to the request that is being served."""
        call = await self.call(continuation, details, request)
        try:
            if await call.code() is not grpc.StatusCode.OK and pushback.pushed_back(await call.trailing_metadata()):
                pushback.spent()
        except asyncio.CancelledError:
            call.cancel()  # grpcio leaves that to interceptors while they run
            raise
        return call


class _UnaryUnary(_Bounding, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    intercept_unary_unary = _Bounding.call_once


class _UnaryStream(_Bounding, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    intercept_unary_stream = _Bounding.call


class _StreamUnary(_Bounding, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    intercept_stream_unary = _Bounding.call_once


class _StreamStream(_Bounding, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    intercept_stream_stream = _Bounding.call

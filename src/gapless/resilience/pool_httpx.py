"""httpx behind our pool: `httpx.AsyncClient(transport=PooledTransport(name="stock", world=world, limits=…))`.

httpcore goes on to own the connections, since HTTP/2 shares one among many requests. What is lent here are permits: at
most `max_size` exchanges at a time, from the request to the end of its response, in the order of asking. So httpcore
never queues, a response that nobody closes is found as a leak with its place, and every one of httpx's own time limits
is cut to the inherited deadline. Needs the package `httpx`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from types import FrameType
from typing import Any

import httpx

from gapless.core.ports import World
from gapless.resilience import deadline
from gapless.resilience.errors import Transient
from gapless.resilience.events import GuardHook
from gapless.resilience.pool import Pool
from gapless.resilience.pool_errors import ConnectFailed
from gapless.resilience.pool_figures import PoolFigures
from gapless.resilience.pool_limits import PoolLimits
from gapless.resilience.pool_state import Place, Slot


class PooledTransport(httpx.AsyncBaseTransport):
    """`options` go to `httpx.AsyncHTTPTransport` (`http2=True`, `verify=…`)."""

    def __init__(
        self, *, name: str, world: World, limits: PoolLimits, hooks: tuple[GuardHook, ...] = (), **options: Any
    ) -> None:
        self._world = world
        self._opened = self._failed = 0
        # A permit never ages: its idle time and its health mean nothing.
        permits = replace(limits, min_size=0, idle_timeout_s=math.inf, health_check_every_s=math.inf)
        self._permits: Pool[object] = Pool(_permit, name=name, world=world, limits=permits, broken=_never, hooks=hooks)
        self._transport = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(
                max_connections=limits.max_size,
                max_keepalive_connections=limits.max_size,
                keepalive_expiry=None if limits.idle_timeout_s == math.inf else limits.idle_timeout_s,
            ),
            **options,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        slot = await self._permits.lend(_place(sys._getframe(1)))  # noqa: SLF001 see Pool.acquire
        try:
            self._prepare(request)
            response = await self._transport.handle_async_request(request)
        except BaseException as error:
            self._permits.give_back(slot, None)
            if isinstance(error, httpx.TransportError):
                raise self._translated(error) from error
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Stream(self, response.stream, slot)
        return response

    def statistics(self) -> PoolFigures:
        """`size` and `idle` count httpcore's connections, `in_use` the exchanges."""
        connections = self._connections()
        figures = self._permits.statistics()
        return replace(
            figures,
            size=len(connections),
            idle=sum(1 for each in connections if each.is_idle()),
            created_total=self._opened,
            closed_total=max(self._opened - len(connections), 0),
            failed_total=self._failed,
        )

    async def aclose(self) -> None:
        await self._permits.close(drain_s=self._permits.limits.acquire_deadline_s)
        await self._transport.aclose()

    def _connections(self) -> list[Any]:
        return list(self._transport._pool.connections)  # noqa: SLF001 httpx shows its connections nowhere

    def _prepare(self, request: httpx.Request) -> None:
        left_s = max(deadline.remaining(self._world.now()), 0.001)
        given = request.extensions.get("timeout", {})
        if left_s < math.inf:
            names = ("connect", "read", "write", "pool")
            given = {name: min(left_s, _limit(given.get(name))) for name in names}
        request.extensions = {**request.extensions, "timeout": given, "trace": self._tracer(request)}

    def _tracer(self, request: httpx.Request) -> Any:
        inner = request.extensions.get("trace")

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event in ("connection.connect_tcp.complete", "connection.connect_unix_socket.complete"):
                self._opened += 1
            elif event in ("connection.connect_tcp.failed", "connection.connect_unix_socket.failed"):
                self._failed += 1
            if inner is not None:
                await inner(event, info)

        return trace

    def _translated(self, error: httpx.TransportError) -> Exception:
        name = self._permits.name
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ConnectFailed(f"pool {name!r}: no connection could be opened: {error}", pool=name)
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return error
        return Transient(f"{name}: {type(error).__name__}: {error}", "The request may have taken effect.")

    def give_back(self, slot: Slot[object]) -> None:
        self._permits.give_back(slot, None)


class _Stream(httpx.AsyncByteStream):
    """A response's body; its end gives the permit back, once."""

    def __init__(self, transport: PooledTransport, inner: httpx.AsyncByteStream, slot: Slot[object]) -> None:
        self._transport, self._inner = transport, inner
        self._slot: Slot[object] | None = slot

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._inner:
                yield part
        except httpx.TransportError as error:
            raise self._transport._translated(error) from error  # noqa: SLF001 its own stream

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            slot, self._slot = self._slot, None
            if slot is not None:
                self._transport.give_back(slot)


async def _permit() -> object:
    return object()


def _never(permit: object, error: BaseException | None) -> bool:
    return False


def _limit(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def _place(frame: FrameType | None) -> Place | None:
    """The first caller outside of httpx; None when that is the event loop itself."""
    while frame is not None and (module := frame.f_globals.get("__name__", "")).startswith(("httpx.", __name__)):
        frame = frame.f_back
    return (frame.f_code, frame.f_lasti) if frame and not module.startswith("asyncio") else None

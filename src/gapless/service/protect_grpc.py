"""The guard before a gRPC server: the same policies, in its words.

    server = grpc.aio.server(interceptors=[ProtectedGrpc(guard("orders", rate("100/s", key="{user}"), limit(50)))])

Above a rate or beyond a limit: RESOURCE_EXHAUSTED; with an open breaker: UNAVAILABLE; after the deadline:
DEADLINE_EXCEEDED. The trailing metadata say when to ask again (`grpc-retry-pushback-ms`, gRFC A6) and which policy
refused (`gapless-policy`). The caller's `grpc-timeout` (and `x-gapless-deadline-ms`) is the deadline of all that its
call begins. A place is held until a stream has ended or was cancelled.

The standard services for health and reflection are not guarded. Needs grpcio (`gapless[grpc]`), which is imported by
whoever makes the server.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import grpc

from gapless.core.errors import ConfigError
from gapless.core.ports import World
from gapless.core.world import RealWorld
from gapless.resilience import deadline, pushback
from gapless.resilience.errors import BreakerOpen, DeadlineExceeded, Rejected
from gapless.resilience.guard import Guard
from gapless.service.grpc_calls import OWN, peer_of
from gapless.service.protect import check_suited

Principal = Callable[[Any, Mapping[str, str]], str]
Serve = Callable[..., Awaitable[Any]]

FAILURES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
"""Codes that a breaker counts; the others are answers."""


class _Ended(Exception):
    """The handler ended with a status of its own that is no failure; it goes on outside the guard."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class _Place(NamedTuple):
    prefix: str
    name: str
    serve: Serve


def user_of(context: Any, metadata: Mapping[str, str]) -> str:
    """Who asks: `x-user-id`, or else the peer's address without its port."""
    return metadata.get("x-user-id") or peer_of(context).rpartition(":")[0]


class ProtectedGrpc(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """`guards`: one for every method, or one for each prefix of `/package.Service/Method` (the longest decides).
    Keys are made of `user` and `method`. Raises ConfigError for a policy that cannot stand before a server."""

    def __init__(
        self,
        guards: Guard | Mapping[str, Guard],
        *,
        principal: Principal = user_of,
        world: World | None = None,
    ) -> None:
        self._principal = principal
        self._now = (world or RealWorld()).now
        named = {"/": guards} if isinstance(guards, Guard) else guards
        for each in named.values():
            check_suited(each)
        self._places = [
            _Place(prefix, named[prefix].name, named[prefix](_serve))
            for prefix in sorted(named, key=lambda prefix: -len(prefix))
        ]

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        place = next((place for place in self._places if details.method.startswith(place.prefix)), None)
        if details.method.startswith(OWN):
            return handler  # asked by machines that no guard may turn away
        if handler is None or place is None:
            return handler
        kind, make, inner = _shape(handler)
        check_async(inner, details.method)
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}

        async def guarded(request: Any, context: Any) -> Any:
            return await self._guarded(place, inner, details.method, metadata, request, context)

        behaviour = guarded if kind.endswith("unary") else _streaming(guarded)
        return make(
            behaviour,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _guarded(
        self, place: _Place, inner: Serve, method: str, metadata: Mapping[str, str], request: Any, context: Any
    ) -> Any:
        token = deadline.current.set(min(self._end(context, metadata), deadline.current.get()))
        try:
            return await place.serve(self._principal(context, metadata), method, inner, request, context)
        except Rejected as error:
            await _refuse(context, error, own=error.guard == place.name)
        except _Ended as ended:
            raise ended.error from None
        finally:
            deadline.current.reset(token)

    def _end(self, context: Any, metadata: Mapping[str, str]) -> float:
        left = context.time_remaining()
        asked = deadline.parse(metadata.get(deadline.HEADER.decode(), "").encode())
        return self._now() + min(math.inf if left is None else left, asked)


async def _serve(user: str, method: str, inner: Serve, request: Any, context: Any) -> Any:
    """What is guarded; `user` and `method` are what keys can be made of."""
    try:
        answer: Any = inner(request, context)
        if not inspect.isasyncgen(answer):
            return await answer
        async for message in answer:
            await context.write(message)
    except grpc.aio.AbortError as error:
        if context.code() in FAILURES:
            raise
        raise _Ended(error) from None
    return None


def _streaming(guarded: Serve) -> Serve:
    """A handler that has written its messages itself returns nothing."""

    async def stream(request: Any, context: Any) -> None:
        await guarded(request, context)

    return stream


def _shape(handler: Any) -> tuple[str, Callable[..., Any], Serve]:
    """(kind, the maker of such a handler, what it calls)."""
    asked = "stream" if handler.request_streaming else "unary"
    answered = "stream" if handler.response_streaming else "unary"
    kind = f"{asked}_{answered}"
    return kind, getattr(grpc, f"{kind}_rpc_method_handler"), getattr(handler, kind)


def check_async(inner: Any, method: str) -> None:
    """Raises ConfigError for a handler that would run in a thread, where none of this holds."""
    if not (inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)):
        raise ConfigError(
            f"the handler of {method} is not async", "Make it `async def`, or leave its method unguarded."
        )


async def _refuse(context: Any, error: Rejected, own: bool) -> None:
    before = tuple(context.trailing_metadata() or ())
    trailing = [*before, ("gapless-policy", error.policy)]
    final = pushback.pushed_back(before)  # what was asked again in vain is so whatever refused it in the end
    if not final and error.retry_after_s is not None and math.isfinite(error.retry_after_s):
        trailing.append((pushback.GRPC_KEY, str(math.ceil(error.retry_after_s * 1000))))
    await context.abort(_code(error, own), _TEXTS.get(error.policy, "This cannot be served now."), tuple(trailing))


def _code(error: Rejected, own: bool) -> grpc.StatusCode:
    """What something deeper refused is not the caller's doing."""
    if isinstance(error, DeadlineExceeded):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    if isinstance(error, BreakerOpen) or not own:
        return grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.RESOURCE_EXHAUSTED


_TEXTS = {
    "rate": "There were more requests than the rate allows.",
    "limit": "As many requests as can be served are under way.",
    "breaker": "The service fails too often to be asked now.",
    "deadline": "The deadline passed before there was an answer.",
}

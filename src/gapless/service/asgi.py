"""The shapes of ASGI 3, and the one way in which the kit answers a request by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, runtime_checkable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]

FIELDS = "gapless.fields"
"""In a scope of our own server: the headers by name (of several with one name, the last), which it needs anyway."""


@runtime_checkable
class Presence(Protocol):
    """Whose method `receive` is, on our own server: it tells that the client has gone without a task that asks for it,
    which is half of what a request costs that only waits."""

    @property
    def gone(self) -> bool: ...

    def tell(self, waiter: asyncio.Future[int]) -> None:
        """Set the future's result when the client goes; and perhaps before: look at `gone`."""
        ...


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """One whole response."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """The app of a service that wraps none."""
    if scope["type"] == "http":
        await respond(send, 404, b"there is no app behind this service\n", [(b"content-type", b"text/plain")])

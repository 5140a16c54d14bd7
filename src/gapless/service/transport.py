"""One HTTP request to one address, and the exact way in which it failed: the only place that knows httpcore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from gapless.core.model import Address

if TYPE_CHECKING:
    import httpcore

CONNECT_S = 1.0
"""A connection within a site takes a millisecond: after a second packets are being dropped, and others can answer."""
KEEPALIVE_S = 30.0
"""Idle connections are closed here before the server's idle limit (75 s) does it, so that no request meets its FIN."""
MOST_CONNECTIONS = 1000
"""Idle ones are not limited further: httpcore counts busy connections against that limit too, and would close and open
them all the time under load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer, read to its end. Header names are in lower case; repeated ones are joined with `, `."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """The body as plain JSON data. Raises ValueError when it is not JSON."""
        import json

        return json.loads(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What is sent to whichever instance is asked. `target` is the path with its query."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    content: bytes


class Unsent(Exception):
    """Nobody has seen the request: refused, or no connection in time."""


class Broken(Exception):
    """The connection broke after the request had (perhaps) been sent, before the answer was complete."""


class Transport(Protocol):
    """Sends one request. Raises Unsent and Broken; is cancelled when its time is over."""

    async def send(self, address: Address, sending: Sending) -> Response: ...
    async def aclose(self) -> None: ...


class HttpTransport:
    """Transport on httpcore's connection pool: HTTP/1.1 with keep-alive."""

    @cached_property
    def _pool(self) -> httpcore.AsyncConnectionPool:
        import httpcore

        return httpcore.AsyncConnectionPool(
            max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS, keepalive_expiry=KEEPALIVE_S
        )

    async def send(self, address: Address, sending: Sending) -> Response:
        import httpcore

        url = httpcore.URL(
            scheme=b"http", host=address.host.encode(), port=address.port, target=sending.target.encode("latin-1")
        )
        try:
            answer = await self._pool.request(
                sending.method,
                url,
                headers=[(b"host", str(address).encode()), *sending.headers],
                content=sending.content,
                extensions={"timeout": {"connect": CONNECT_S, "pool": CONNECT_S}},
            )
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
            raise Unsent(str(error) or type(error).__name__) from error
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise Broken(str(error) or type(error).__name__) from error
        return Response(status=answer.status, headers=joined(answer.headers), content=answer.content)

    async def aclose(self) -> None:
        if "_pool" in self.__dict__:
            await self._pool.aclose()


def joined(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header pairs as a mapping (RFC 9110 §5.3)."""
    headers: dict[str, str] = {}
    for name, value in pairs:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers

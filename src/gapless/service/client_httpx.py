"""httpx that finds services, balances and asks again where that is safe:

    async with httpx.AsyncClient(transport=ServiceTransport(discovery="consul://127.0.0.1:8500")) as client:
        answer = await client.get("http://inventory.gapless/stock/A1")

The host names the service (`service.outbound.service_of`); hosts that are none of ours pass unchanged. An attempt
ends with the answer's headers: bodies stream, and count as in flight until they are closed. Headers of the request
being served (trace, user, request id) and the deadline go along; an `Idempotency-Key` makes a POST repeatable, unless
its body can be read only once. httpx's `read` timeout is the limit of the whole call up to the answer's headers.

Needs the package `httpx` (`gapless[http]`).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import httpx

from gapless.core.errors import Unavailable
from gapless.core.model import Address, Endpoint
from gapless.discovery.load import Outcome
from gapless.resilience.deadline import within
from gapless.service.attempts import Attempts
from gapless.service.call import judged
from gapless.service.outbound import Outbound, carried, service_of, told
from gapless.service.transport import CONNECT_S, KEEPALIVE_S, MOST_CONNECTIONS

LIMITS = httpx.Limits(
    max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS, keepalive_expiry=KEEPALIVE_S
)
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Unanswered(Unavailable, httpx.TransportError):
    """No instance could answer."""


class ServiceTransport(httpx.AsyncBaseTransport):
    """`options` are those of `service.outbound.Outbound`: discovery, directory, balance, zone, policy, meter.
    `transport` sends to one instance (default: httpx's own, without proxies)."""

    def __init__(self, *, transport: httpx.AsyncBaseTransport | None = None, **options: Any) -> None:
        self._outbound = Outbound(**options)
        self._inner = transport or httpx.AsyncHTTPTransport(limits=LIMITS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        service = service_of(request.url.host)
        if not service:
            return await self._inner.handle_async_request(request)
        attempts = await self._begin(service, request)
        request.headers.update(carried(request.headers))
        answer = await attempts.run(lambda endpoint: self._attempt(request, attempts, endpoint), _drop)
        if answer is None:
            raise Unanswered(attempts.why())
        return answer.response

    async def aclose(self) -> None:
        await self._inner.aclose()
        await self._outbound.aclose()

    async def _begin(self, service: str, request: httpx.Request) -> Attempts:
        limit_s = request.extensions.get("timeout", {}).get("read")
        try:
            return await self._outbound.begin(
                service,
                request.method,
                request.headers,
                limit_s=math.inf if limit_s is None else limit_s,
                replayable=isinstance(request.stream, httpx.ByteStream),
            )
        except Unavailable as error:
            raise Unanswered(error.what, error.remedy) from error

    async def _attempt(self, request: httpx.Request, attempts: Attempts, endpoint: Endpoint) -> _Answer | None:
        world, limit_s = self._outbound.world, attempts.limit_s()
        began = world.now()
        outcome, detail, response = Outcome.ABANDONED, "", None
        try:
            async with within(world, limit_s):
                response = await self._inner.handle_async_request(_addressed(request, endpoint.address, limit_s))
            outcome, detail = judged(response.status_code), f"answered {response.status_code}"
        except UNSENT as error:
            outcome, detail = Outcome.REFUSED, f"not reached ({error})"
        except (httpx.NetworkError, httpx.TimeoutException, httpx.ProtocolError) as error:
            outcome, detail = Outcome.RESET, f"connection broke ({error})"
        except TimeoutError:
            outcome, detail = Outcome.LATE, f"no answer within {limit_s:.3g} s"
        finally:
            took_s = world.now() - began
            if response is None:
                attempts.callee.ended(endpoint, took_s, outcome)
        attempts.ended(endpoint, outcome, detail)
        if response is None:
            return None
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(response.stream, attempts, endpoint, took_s, outcome)
        return _Answer(response.status_code, response.headers, response)


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    response: httpx.Response


async def _drop(answer: _Answer) -> None:
    await answer.response.aclose()


class _Body(httpx.AsyncByteStream):
    """A response's body. Its end is the end of the request for the balance: a body that breaks is a broken answer."""

    def __init__(
        self, inner: httpx.AsyncByteStream, attempts: Attempts, endpoint: Endpoint, took_s: float, outcome: Outcome
    ) -> None:
        self._inner, self._attempts, self._endpoint = inner, attempts, endpoint
        self._took_s, self._outcome = took_s, outcome
        self._told = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._inner:
                yield part
        except httpx.TransportError:
            self._outcome = Outcome.RESET
            raise

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            if not self._told:
                self._told = True
                self._attempts.callee.ended(self._endpoint, self._took_s, self._outcome)


def _addressed(request: httpx.Request, address: Address, limit_s: float) -> httpx.Request:
    """The same request to one instance. TLS goes on to ask for the certificate of the name."""
    timeout = {**request.extensions.get("timeout", {})}
    connect_s = timeout.get("connect")
    timeout["connect"] = min(CONNECT_S, limit_s, math.inf if connect_s is None else connect_s)
    extensions = {"sni_hostname": request.url.host, **request.extensions, "timeout": timeout}
    headers = request.headers.copy()
    headers["host"] = str(address)
    headers.update(told(limit_s))
    url = request.url.copy_with(host=address.host, port=address.port)
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=extensions)

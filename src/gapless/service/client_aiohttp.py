"""aiohttp that finds services, balances and asks again where that is safe:

    services = ServiceMiddleware(discovery="consul://127.0.0.1:8500")
    async with services, aiohttp.ClientSession(middlewares=[services]) as session:
        async with session.get("http://inventory.gapless/stock/A1") as answer:
            ...

The host names the service (`service.outbound.service_of`); hosts that are none of ours pass unchanged. A middleware,
no connector nor resolver, because only it is asked for each request: connections are kept per instance. An attempt
ends with the answer's headers: bodies stream, and count as in flight until their connection is given back. Headers of
the request being served (trace, user, request id) and the deadline go along; an `Idempotency-Key` makes a POST
repeatable, unless its body can be read only once.

Needs the package `aiohttp` (`gapless[aiohttp]`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import aiohttp
from aiohttp.payload import BytesPayload

from gapless.core.errors import Unavailable
from gapless.core.model import Address, Endpoint
from gapless.discovery.load import Outcome
from gapless.resilience.deadline import within
from gapless.service.attempts import Attempts
from gapless.service.call import judged
from gapless.service.outbound import Outbound, carried, service_of, told


class Unanswered(Unavailable, aiohttp.ClientConnectionError):
    """No instance could answer."""


class ServiceMiddleware:
    """`options` are those of `service.outbound.Outbound`: discovery, directory, balance, zone, policy, meter. Closing
    it ends the looking for services; the connections are the session's."""

    def __init__(self, **options: Any) -> None:
        self._outbound = Outbound(**options)

    async def __aenter__(self) -> ServiceMiddleware:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._outbound.aclose()

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        given = request.url
        service = service_of(given.host or "")
        if not service:
            return await handler(request)
        try:
            attempts = await self._outbound.begin(
                service, request.method, request.headers, replayable=_replayable(request.body)
            )
        except Unavailable as error:
            raise Unanswered(error.what, error.remedy) from error
        request.headers.update(carried(request.headers))
        if request.is_ssl() and request.server_hostname is None:
            request.server_hostname = given.host  # TLS goes on to ask for the certificate of the name
        answer = await attempts.run(lambda endpoint: self._attempt(request, handler, attempts, endpoint), _drop)
        if answer is None:
            raise Unanswered(attempts.why())
        return answer.response

    async def _attempt(
        self,
        request: aiohttp.ClientRequest,
        handler: aiohttp.ClientHandlerType,
        attempts: Attempts,
        endpoint: Endpoint,
    ) -> _Answer | None:
        world, limit_s = self._outbound.world, attempts.limit_s()
        began = world.now()
        outcome, detail, response = Outcome.ABANDONED, "", None
        _address(request, endpoint.address, limit_s)
        try:
            async with within(world, limit_s):
                response = await handler(request)
            outcome, detail = judged(response.status), f"answered {response.status}"
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            outcome, detail = Outcome.REFUSED, f"not reached ({error})"
        except TimeoutError:  # aiohttp's own are of this kind too
            outcome, detail = Outcome.LATE, f"no answer within {world.now() - began:.3g} s"
        except (aiohttp.ClientError, OSError) as error:
            outcome, detail = Outcome.RESET, f"connection broke ({error})"
        finally:
            seen = _Seen(attempts, endpoint, world.now() - began, outcome)
            _at_end(response, seen)
        attempts.ended(endpoint, outcome, detail)
        return None if response is None else _Answer(response.status, _lower(response), response)


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    response: aiohttp.ClientResponse


class _Seen(NamedTuple):
    attempts: Attempts
    endpoint: Endpoint
    took_s: float
    outcome: Outcome

    def tell(self, outcome: Outcome) -> None:
        self.attempts.callee.ended(self.endpoint, self.took_s, outcome)


async def _drop(answer: _Answer) -> None:
    answer.response.release()


def _replayable(body: object) -> bool:
    return not body or isinstance(body, bytes | BytesPayload)


def _lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _address(request: aiohttp.ClientRequest, address: Address, limit_s: float) -> None:
    """Send the request to one instance. Its `url` is what the connection is looked up by."""
    request.url = request.url.with_host(address.host).with_port(address.port)
    request.headers["Host"] = str(address)
    request.headers.update(told(limit_s))


def _at_end(response: aiohttp.ClientResponse | None, seen: _Seen) -> None:
    """Tell what was seen once the connection is given back; a body that breaks is a broken answer."""
    if response is None or (connection := response.connection) is None:
        seen.tell(seen.outcome)
        return
    content = response.content

    def end() -> None:
        seen.tell(Outcome.RESET if content.exception() is not None else seen.outcome)

    connection.add_callback(end)

"""The client of another service: finds it, follows its split, balances, and asks again where that is safe.

inventory = service.client("inventory")
answer = await inventory.post("/reserve", json={"sku": "A1"}, idempotency_key=key)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gapless.core.model import Endpoint
from gapless.core.ports import World
from gapless.core.world import RealWorld
from gapless.discovery.balancers import DEFAULT
from gapless.discovery.directory import Directory
from gapless.discovery.load import Outcome
from gapless.observe.log import request_id
from gapless.observe.metrics import Meter
from gapless.resilience import deadline, retry
from gapless.resilience.deadline import within
from gapless.service import inbound
from gapless.service.attempts import Attempts
from gapless.service.call import body_of, headers_of, judged
from gapless.service.callee import Callee
from gapless.service.identity import Identity
from gapless.service.outbound import directory_of
from gapless.service.trace_call import CallSpan
from gapless.service.transport import Broken, HttpTransport, Response, Sending, Transport, Unsent


@dataclass(slots=True, kw_only=True)
class _Call:
    """What is asked, and how far that has come."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    content: bytes
    attempts: Attempts


class Client:
    """Calls one service, found by way of an address (`discovery="consul://127.0.0.1:8500"`, see `discovery.sources`),
    at fixed `endpoints` (`host:port`), or in a shared `directory`; with none of these, where GAPLESS_DISCOVERY says.
    `zone` is the caller's own (default: GAPLESS_ZONE).

    `async with Client("inventory", endpoints=["127.0.0.1:9001"]) as client:` closes its connections; the clients of a
    `Service` are closed by it.
    """

    def __init__(
        self,
        service: str,
        *,
        discovery: str = "",
        endpoints: Iterable[str] = (),
        directory: Directory | None = None,
        policy: retry.RetryPolicy | None = None,
        transport: Transport | None = None,
        world: World | None = None,
        meter: Meter | None = None,
        balance: str = DEFAULT,
        zone: str = "",
    ) -> None:
        self.service = service
        self._world = world or RealWorld()
        self._own = directory is None
        self._directory = directory or directory_of(discovery, self._world, service, endpoints)
        self._transport = transport or HttpTransport()
        self._callee = Callee(
            service,
            self._directory,
            self._world,
            policy=policy,
            balance=balance,
            zone=zone or Identity.from_env().zone,
            meter=meter,
        )

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Begin to look for the service: the first call need not wait for that. Calls do it by themselves."""
        await self._callee.start()

    async def aclose(self) -> None:
        """Close the connections. Calls under way fail."""
        await self._transport.aclose()
        if self._own:
            await self._directory.aclose()

    async def get(self, path: str, **options: Any) -> Response:
        """`request("GET", …)`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Response:
        """`request("POST", …)`."""
        return await self.request("POST", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        user: str = "",
        idempotency_key: str = "",
        deadline_s: float | None = None,
    ) -> Response:
        """The answer of one instance, whatever its status.

        `path` may have a query. `user` decides the release (default: the user of the request being served). The
        deadline is `deadline_s` (default: the service's own timeout), or that of the request being served if sooner.

        What was never sent goes to the next instance until all have been tried; what was sent is sent again (502, 503,
        504, broken, too slow) only when the method is idempotent or there is an `idempotency_key`, and never after
        an answer with `x-gapless-retried`. Raises Unavailable with everything that was tried.
        """
        given = headers_of(
            headers,
            inbound.headers(),
            request_id=request_id.get(),
            user=user,
            idempotency_key=idempotency_key,
            json=json is not None,
        )
        now = self._world.now()
        key = idempotency_key or given.get(b"idempotency-key", b"").decode("latin-1")
        attempts = Attempts(
            callee=self._callee,
            end=min(now + (math.inf if deadline_s is None else deadline_s), deadline.current.get()),
            repeatable=retry.repeatable(method.upper(), key),
            keyed=bool(key),
            user=given.get(b"x-user-id", b"").decode("latin-1"),
        )
        table = await self._callee.found(attempts.end)
        if deadline_s is None:
            attempts.end = min(attempts.end, now + table.timeout_s)
        self._callee.budget.calls += 1
        call = _Call(
            method=method.upper(), target=path, headers=given, content=body_of(json, content), attempts=attempts
        )
        answer = await attempts.run(lambda endpoint: self._attempt(call, endpoint))
        if answer is None:
            raise attempts.unavailable()
        return answer

    async def _attempt(self, call: _Call, endpoint: Endpoint) -> Response | None:
        """Ask one instance; None when there is no answer. What was seen goes into the balance and the call's record."""
        began = self._world.now()
        outcome, detail, response = Outcome.ABANDONED, "", None
        limit_s = call.attempts.limit_s()
        span = CallSpan(self.service)
        try:
            async with within(self._world, limit_s):
                response = await self._transport.send(endpoint.address, _sending(call, limit_s, span.header()))
            outcome, detail = judged(response.status), f"answered {response.status}"
        except Unsent as error:
            outcome, detail = Outcome.REFUSED, f"not reached ({error})"
        except Broken as error:
            outcome, detail = Outcome.RESET, f"connection broke ({error})"
        except TimeoutError:
            outcome, detail = Outcome.LATE, f"no answer within {limit_s:.3g} s"
        finally:
            self._callee.ended(endpoint, self._world.now() - began, outcome)
            span.end(call.method, detail, failed=outcome is not Outcome.ANSWERED, instance=endpoint.instance)
        call.attempts.ended(endpoint, outcome, detail)
        return response


def _sending(call: _Call, limit_s: float, trace: Mapping[bytes, bytes]) -> Sending:
    told = {**call.headers, **trace, deadline.HEADER: deadline.render(limit_s)}
    return Sending(method=call.method, target=call.target, headers=tuple(told.items()), content=call.content)

"""The client of another service: finds it, follows its split, balances, and asks again where that is safe.

inventory = service.client("inventory")
answer = await inventory.post("/reserve", json={"sku": "A1"}, idempotency_key=key)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gapless.core.errors import Unavailable
from gapless.core.model import BUCKETS, Address, Endpoint, ServiceTable, SplitBy, bucket_of
from gapless.core.ports import World
from gapless.core.world import RealWorld
from gapless.discovery.balance import Outcome
from gapless.discovery.directory import Directory, static
from gapless.discovery.loads import Loads
from gapless.observe.log import request_id
from gapless.observe.metrics import Meter
from gapless.resilience import deadline, retry
from gapless.resilience.budget import Budget
from gapless.resilience.deadline import within
from gapless.service import inbound
from gapless.service.call import Attempt, again, body_of, headers_of, judged, pools, report
from gapless.service.transport import Broken, HttpTransport, Response, Sending, Transport, Unsent

FIND_S = 10.0
"""How long a call without a deadline waits for discovery to tell of the service: a fresh system starts within it."""
LEAST_S = 0.001
"""Less than a millisecond is not worth a request: it cannot even be told in the deadline's header."""


@dataclass(slots=True, kw_only=True)
class _Call:
    """A call under way. `end` is its deadline on `World.now()`'s clock."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    content: bytes
    user: str
    key: str
    end: float
    attempts: list[Attempt] = field(default_factory=list)
    sent: int = 0
    rounds: int = 0
    tried: set[Address] = field(default_factory=set)
    """In this round; a new one begins when everybody has been tried."""

    @property
    def repeatable(self) -> bool:
        return retry.repeatable(self.method, self.key)


class Client:
    """Calls one service. With `endpoints` (`host:port`) it needs no control plane; otherwise it follows `directory`.

    `async with Client("inventory", endpoints=["127.0.0.1:9001"]) as client:` closes its connections; the clients of a
    `Service` are closed by it.
    """

    def __init__(
        self,
        service: str,
        *,
        endpoints: Iterable[str] = (),
        directory: Directory | None = None,
        policy: retry.RetryPolicy | None = None,
        transport: Transport | None = None,
        world: World | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.service = service
        self._world = world or RealWorld()
        self._directory = directory or Directory(self._world, table=static(service, endpoints))
        self._policy = policy or retry.RetryPolicy()
        self._transport = transport or HttpTransport()
        self._loads = Loads(self._world)
        self._budget = Budget(self._policy.budget, self._world)
        self._attempts = (meter or Meter()).counter(
            "gapless_client_attempts", "Requests sent to other services, by how they ended", ("service", "outcome")
        )
        self._table: ServiceTable | None = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Calls under way fail."""
        await self._transport.aclose()

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
        504, broken, too slow) only when the method is idempotent or there is an `idempotency_key`. Raises Unavailable
        with everything that was tried.
        """
        given = headers_of(
            headers,
            inbound.headers.get(),
            request_id=request_id.get(),
            user=user,
            idempotency_key=idempotency_key,
            json=json is not None,
        )
        now = self._world.now()
        call = _Call(
            method=method.upper(),
            target=path,
            headers=given,
            content=body_of(json, content),
            user=given.get(b"x-user-id", b"").decode("latin-1"),
            key=idempotency_key or given.get(b"idempotency-key", b"").decode("latin-1"),
            end=min(now + (math.inf if deadline_s is None else deadline_s), deadline.current.get()),
        )
        table = await self._found(call)
        if deadline_s is None:
            call.end = min(call.end, now + table.timeout_s)
        self._budget.calls += 1
        return await self._answer(call)

    async def _found(self, call: _Call) -> ServiceTable:
        """The service's table; waits for its first endpoint until the deadline."""
        known = self._directory.service(self.service)
        if known is None or not known.endpoints:
            await self._directory.start()
            try:
                async with within(self._world, min(call.end - self._world.now(), FIND_S)):
                    known = await self._directory.wait_for(self.service)
            except TimeoutError as error:
                raise Unavailable(
                    report(self.service, "discovery knows no instance of it", ()),
                    "Check its name, and that it runs: gapless status.",
                ) from error
        if known is not self._table:
            self._table = known
            self._loads.forget_but({each.address for each in known.endpoints})
        return known

    async def _answer(self, call: _Call) -> Response:
        """Ask until there is an answer to give back."""
        while True:
            endpoint = self._choose(call)
            last = await self._attempt(call, endpoint) if endpoint else None
            if isinstance(last, Response) and not again(last, call.method, call.key):
                return last
            wait_s = self._next(call, last)
            if wait_s is None:
                if isinstance(last, Response):
                    return last
                raise Unavailable(report(self.service, self._why(call), call.attempts))
            if wait_s > 0:
                await self._world.sleep(wait_s)

    def _choose(self, call: _Call) -> Endpoint | None:
        """The next one to ask: of the user's release when it has anybody left to try."""
        table = self._directory.service(self.service)
        if table is None:
            return None
        for pool in pools(table, self._release(table, call.user)):
            endpoint = self._loads.choose(pool, call.tried)
            if endpoint is not None:
                return endpoint
        return None

    def _release(self, table: ServiceTable, user: str) -> str:
        """By the user's bucket; a fresh die where no user is known or the split asks for it."""
        split = table.split
        if user and split.by is SplitBy.USER:
            return split.release_of(bucket_of(user, split.salt))
        return split.release_of(int(self._world.random() * BUCKETS))

    async def _attempt(self, call: _Call, endpoint: Endpoint) -> Response | None:
        """Ask one instance; None when there is no answer. What was seen goes into the balance and the call's record."""
        began = self._world.now()
        outcome, detail, response = Outcome.ABANDONED, "", None
        limit_s = self._share(call, began)
        try:
            async with within(self._world, limit_s):
                response = await self._transport.send(endpoint.address, self._sending(call, limit_s))
            outcome, detail = judged(response), f"answered {response.status}"
        except Unsent as error:
            outcome, detail = Outcome.REFUSED, f"not reached ({error})"
        except Broken as error:
            outcome, detail = Outcome.RESET, f"connection broke ({error})"
        except TimeoutError:
            outcome, detail = Outcome.FAILED, f"no answer within {limit_s:.3g} s"
        finally:
            self._loads.ended(endpoint.address, self._world.now() - began, outcome)
            self._attempts.labels(self.service, outcome.value).inc()
        call.attempts.append(Attempt(endpoint=endpoint, outcome=outcome, detail=detail))
        call.tried.add(endpoint.address)
        call.sent += outcome is not Outcome.REFUSED
        return response

    def _share(self, call: _Call, now: float) -> float:
        """Seconds for this attempt. What may be repeated keeps half of the time for another attempt elsewhere: an
        instance that hangs must not use up the whole deadline."""
        last = not call.repeatable or call.sent + 1 >= self._policy.attempts
        return (call.end - now) / (1 if last else 2)

    def _sending(self, call: _Call, limit_s: float) -> Sending:
        told = {**call.headers, deadline.HEADER: deadline.render(limit_s)}
        return Sending(method=call.method, target=call.target, headers=tuple(told.items()), content=call.content)

    def _next(self, call: _Call, last: Response | None) -> float | None:
        """Seconds to wait before the next attempt; None when there shall be none."""
        now = self._world.now()
        unsent = bool(call.attempts) and call.attempts[-1].outcome is Outcome.REFUSED
        if unsent and self._choose_left(call):
            return 0.0 if now + LEAST_S < call.end else None
        if not self._may_repeat(call, unsent or not call.attempts):
            return None
        if not self._choose_left(call):
            call.tried.clear()
            call.rounds += 1
        pause_s = retry.backoff(self._policy.base_s, self._policy.cap_s, call.sent + call.rounds, self._world.random())
        asked = last.headers.get("retry-after") if last else None
        wait_s = max(pause_s, retry.retry_after_s(asked, self._world.time()))
        return wait_s if now + wait_s + LEAST_S < call.end else None

    def _choose_left(self, call: _Call) -> bool:
        table = self._directory.service(self.service)
        return table is not None and any(each.address not in call.tried for each in table.endpoints)

    def _may_repeat(self, call: _Call, unsent: bool) -> bool:
        if unsent:
            return call.rounds < self._policy.rounds
        if not call.repeatable or call.sent >= self._policy.attempts:
            return False
        return self._budget.withdraw()

    def _why(self, call: _Call) -> str:
        if self._world.now() + LEAST_S >= call.end:
            return "the deadline passed"
        if not call.attempts:
            return "it has no instance"
        if call.attempts[-1].outcome is Outcome.REFUSED:
            return "nobody could be reached"
        return "it may not be sent again" if not call.repeatable else "the attempts are used up"

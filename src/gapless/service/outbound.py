"""The way to other services for HTTP and gRPC libraries that others wrote: what their adapters have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from gapless.core.ports import World
from gapless.core.world import RealWorld
from gapless.discovery.balancers import DEFAULT
from gapless.discovery.directory import Directory, static
from gapless.observe.log import request_id
from gapless.observe.metrics import Meter
from gapless.resilience import deadline, retry
from gapless.service import inbound
from gapless.service.attempts import Attempts
from gapless.service.call import headers_of
from gapless.service.callee import Callee
from gapless.service.identity import Identity
from gapless.service.trace_call import told as trace_told

SUFFIX = ".gapless"
"""`http://inventory.gapless/` is the service `inventory`, and so is `http://inventory/`: no name with this ending is to
be had in DNS, and no host outside is called by a name without a dot."""
USER, KEY = "x-user-id", "idempotency-key"


class Outbound:
    """Callees by name, and the directory that tells where they are."""

    def __init__(
        self,
        *,
        discovery: str = "",
        directory: Directory | None = None,
        policy: retry.RetryPolicy | None = None,
        balance: str = DEFAULT,
        zone: str = "",
        world: World | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.world = world or RealWorld()
        self._own = directory is None
        self._directory = directory or directory_of(discovery, self.world)
        self._options: dict[str, Any] = {
            "policy": policy,
            "balance": balance,
            "zone": zone or Identity.from_env().zone,
            "meter": meter or Meter(),
        }
        self._callees: dict[str, Callee] = {}

    def callee(self, service: str) -> Callee:
        """One per name: all calls to a service share what was seen of it. Raises UnknownName for a balancer that does
        not exist."""
        callee = self._callees.get(service)
        if callee is None:
            callee = self._callees[service] = Callee(service, self._directory, self.world, **self._options)
        return callee

    async def begin(
        self,
        service: str,
        method: str,
        headers: Mapping[str, str],
        *,
        limit_s: float = math.inf,
        replayable: bool = True,
    ) -> Attempts:
        """An HTTP call with these headers (names in any case if the mapping knows that, else in lower case). It ends
        with the deadline of the request being served, or after `limit_s` (default: the service's own timeout).
        `replayable`: can the body be sent a second time? Raises Unavailable when nothing is known of the service."""
        callee = self.callee(service)
        now = self.world.now()
        key = headers.get(KEY, "")
        end = min(now + limit_s, deadline.current.get())
        table = await callee.found(end)
        callee.budget.calls += 1
        return Attempts(
            callee=callee,
            end=end if limit_s < math.inf else min(end, now + table.timeout_s),
            repeatable=replayable and retry.repeatable(method.upper(), key),
            keyed=replayable and bool(key),
            user=headers.get(USER, ""),
        )

    async def aclose(self) -> None:
        """A directory that was given stays open."""
        if self._own:
            await self._directory.aclose()


def directory_of(discovery: str, world: World, service: str = "", endpoints: Iterable[str] = ()) -> Directory:
    """Where a caller looks that was given no directory: at the endpoints of the one service that it calls, at the
    address, or where the process was told to. Raises ConfigError, ValueError."""
    if fixed := list(endpoints):
        return Directory(world, table=static(service, fixed))
    return Directory.at(discovery, world) if discovery else Identity.from_env().directory(world)


def service_of(host: str) -> str:
    """The service that a URL's host names; empty for a host that is not one of ours."""
    if host.endswith(SUFFIX):
        return host.removesuffix(SUFFIX)
    return "" if not host or "." in host or ":" in host or host == "localhost" else host


def carried(given: Mapping[str, str]) -> dict[str, str]:
    """The headers that a call carries beyond its own: those of the request being served (trace, user, request id).
    Whoever sends an attempt adds `told`."""
    inherited = headers_of(
        None, inbound.headers(), request_id=request_id.get(), user="", idempotency_key="", json=False
    )
    inherited |= trace_told()
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in inherited.items()}
    return {name: value for name, value in named.items() if name not in given}


def told(limit_s: float) -> dict[str, str]:
    """What an attempt tells of its deadline."""
    return {deadline.HEADER.decode(): deadline.render(limit_s).decode()}

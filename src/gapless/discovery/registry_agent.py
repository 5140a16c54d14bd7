"""The registry behind an agent with Consul's HTTP API: Consul's own, or `gapless registry`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

from gapless.core.codec import encode
from gapless.core.model import Endpoint
from gapless.core.ports import World
from gapless.discovery.catalog.values import Check, Status
from gapless.discovery.registry import Registration, Registry, checks_of, instance_of
from gapless.discovery.registry_keeper import Keeper, Kept
from gapless.discovery.sources.consul import AgentRefused, ConsulSource, agent_of

WRITE_S = 10.0
"""For an answer to a write: the agent may have to commit it with others."""
VERBS = {Status.PASSING: "pass", Status.WARNING: "warn", Status.CRITICAL: "fail"}


@asynccontextmanager
async def agent_registry(address: str, world: World, ttl_s: float) -> AsyncIterator[Registry]:
    """At `consul://HOST:8500`. Whether it answers shows later. Raises ConfigError."""
    registry = AgentRegistry(ConsulSource(agent_of(address), world), world, ttl_s)
    try:
        yield registry
    finally:
        await registry.aclose()


class AgentRegistry(Keeper):
    """`discovery.registry.Registry`."""

    def __init__(self, agent: ConsulSource, world: World, ttl_s: float) -> None:
        super().__init__(world, ttl_s)
        self._agent = agent

    async def aclose(self) -> None:
        await super().aclose()
        await self._agent.aclose()

    async def list(self, service: str) -> tuple[Endpoint, ...]:
        async with aclosing(self._agent.follow(service)) as answers:
            return await anext(answers)

    def watch(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        return self._agent.follow(service)

    async def _enter(self, kept: Kept) -> None:
        body = body_of(kept.registration, checks_of(kept.registration, self._ttl_s, kept.status))
        await self._put("/v1/agent/service/register?replace-existing-checks=true", encode(body))
        # An agent keeps the status of a check that it knows already: an earlier process may have left it critical.
        await self._tell(kept)

    async def _leave(self, identity: str) -> None:
        try:
            await self._put(f"/v1/agent/service/deregister/{quote(identity, safe='')}")
        except AgentRefused as error:
            if error.status != 404:
                raise

    async def _beat(self, kept: Kept) -> None:
        try:
            await self._tell(kept)
        except AgentRefused as error:
            # 404 of an agent that lost it; older ones say 500 (spring-cloud-consul#197).
            if error.status not in (404, 500):
                raise
            if self._is_kept(kept):
                await self._enter(kept)

    async def _tell(self, kept: Kept) -> None:
        note = f"?{urlencode({'note': kept.note})}" if kept.note else ""
        check = quote(kept.registration.heartbeat, safe="")
        await self._put(f"/v1/agent/check/{VERBS[Status(kept.status)]}/{check}{note}")

    async def _put(self, path: str, body: bytes = b"") -> None:
        """Raises DiscoveryLost, AgentRefused."""
        await self._agent.send("PUT", path, body, WRITE_S)


def body_of(registration: Registration, checks: list[Check]) -> dict[str, Any]:
    """The body of `agent/service/register`."""
    instance = instance_of(registration)
    return {
        "Name": instance.service,
        "ID": instance.id,
        "Tags": instance.tags,
        "Address": instance.address,
        "Port": instance.port,
        "Meta": instance.meta,
        "Weights": instance.weights,
        "Checks": [_check_body(check) for check in checks],
    }


def _check_body(check: Check) -> dict[str, Any]:
    """An agent takes the definition's fields beside the check's own."""
    from msgspec import to_builtins

    fields: dict[str, Any] = to_builtins(check.definition)
    if "ScriptArgs" in fields:
        fields["Args"] = fields.pop("ScriptArgs")
    return {**fields, "CheckID": check.id, "Name": check.name, "Status": check.status}

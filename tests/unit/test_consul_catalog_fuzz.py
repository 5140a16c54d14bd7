"""Whatever is sent to agent, catalog and health: an answer that says what is wrong, and a registry that goes on."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.api.consul.agent_self import Agent
from gapless.api.consul.compose import consul_api
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld
from tests.unit.consul_kit import Client

NAMES = (
    *("ID", "Name", "Service", "Tags", "Port", "Address", "TaggedAddresses", "Meta", "Weights", "Passing", "Warning"),
    *("Check", "Checks", "CheckID", "TTL", "Interval", "HTTP", "TCP", "GRPC", "Args", "Status", "Output", "Notes"),
    *("Node", "Datacenter", "NodeMeta", "Definition", "ServiceID", "DeregisterCriticalServiceAfter", "Header", "Kind"),
    *("Connect", "SidecarService", "Proxy", "EnableTagOverride", "SkipNodeUpdate", "AliasService", "AliasNode"),
    *("Observer", "Sights", "Sight"),
)
TEXTS = st.one_of(
    st.sampled_from(["", "a", "web", "10s", "-1s", "1ns", "passing", "dc1", "x" * 300]), st.text(max_size=8)
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(NAMES), TEXTS), inner, max_size=6)
    ),
    max_leaves=15,
)
WRITES = (
    *("/v1/agent/service/register", "/v1/agent/check/register", "/v1/catalog/register", "/v1/catalog/deregister"),
    *("/v1/agent/check/update/web", "/v1/agent/gapless/sights", "/v1/agent/service/register?replace-existing-checks"),
)
READS = (
    *("/v1/health/service/", "/v1/health/state/", "/v1/health/checks/", "/v1/health/node/", "/v1/catalog/service/"),
    *("/v1/catalog/node/", "/v1/catalog/services", "/v1/catalog/nodes", "/v1/agent/services", "/v1/agent/checks"),
    *("/v1/agent/service/", "/v1/agent/health/service/id/", "/v1/agent/members"),
)
QUERIES = ("passing", "tag", "near", "node-meta", "filter", "index", "wait", "stale", "dc", "pretty", "peer")


async def ask_all(writes: list[tuple[str, Any]], reads: list[tuple[str, str, str, str]]) -> None:
    world = FakeWorld()
    async with consul_api(MemoryStore(world), world, Agent(node="here")) as api:
        client = Client(api)
        await client.put("/v1/agent/service/register", {"Name": "web", "Check": {"TTL": "10s", "CheckID": "web"}})
        for target, body in writes:
            response = await client.put(target, body)
            assert b"internal error" not in response.body, (target, body)
            assert response.status in (200, 400, 404, 500), (target, body, response)
        for path, rest, name, value in reads:
            response = await client.get(f"{path}{quote(rest, safe='')}?{name}={quote(value, safe='')}&wait=1ms")
            assert b"internal error" not in response.body, (path, rest, name, value)
        assert (await client.get("/v1/health/service/web")).status == 200


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(WRITES), VALUES), max_size=6),
    st.lists(st.tuples(st.sampled_from(READS), TEXTS, st.sampled_from(QUERIES), TEXTS), max_size=6),
)
def test_nothing_that_is_sent_breaks_it(writes: list[tuple[str, Any]], reads: list[tuple[str, str, str, str]]) -> None:
    reads = [read for read in reads if read[2] != "index"]
    asyncio.run(ask_all(writes, reads))

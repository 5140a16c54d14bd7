"""Agent, catalog and health of Consul's API, over a registry in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gapless.api.consul.compose import Agent, consul_api
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld
from tests.unit.consul_kit import Client, Response, settled

WEB = {"Name": "web", "ID": "web-1", "Tags": ["v1"], "Port": 80, "Check": {"TTL": "10s"}}
REMOTE = {"Node": "far", "Address": "10.0.0.9", "Service": {"Service": "db", "Tags": ["primary"], "Port": 5432}}


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
async def client(world: FakeWorld) -> AsyncIterator[Client]:
    async with consul_api(MemoryStore(world), world, Agent(node="here")) as api:
        yield Client(api)


async def register(client: Client, body: dict[str, Any] = WEB, **more: Any) -> None:
    response = await client.put("/v1/agent/service/register", {**body, **more})
    assert (response.status, response.body) == (200, b"")


async def blocked(client: Client, target: str) -> tuple[Response, asyncio.Task[Response]]:
    """What the target tells now, and a query that waits for the next."""
    now = await client.get(target)
    query = f"{target}{'&' if '?' in target else '?'}index={now.index}&wait=60s"
    waiting = asyncio.create_task(client.get(query))
    await settled()
    assert not waiting.done()
    return now, waiting


async def test_a_registered_service_is_found_everywhere(client: Client) -> None:
    await register(client)
    assert (await client.get("/v1/catalog/services")).json == {"consul": [], "web": ["v1"]}
    (health,) = (await client.get("/v1/health/service/web")).json
    assert health["Node"]["Node"] == "here"
    assert health["Service"]["Port"] == 80
    assert health["Service"]["ModifyIndex"] >= health["Service"]["CreateIndex"] > 1
    assert [check["CheckID"] for check in health["Checks"]] == ["serfHealth", "service:web-1"]
    (flat,) = (await client.get("/v1/catalog/service/web")).json
    assert (flat["ServiceID"], flat["ServicePort"], flat["Address"]) == ("web-1", 80, "127.0.0.1")
    assert set((await client.get("/v1/catalog/node/here")).json["Services"]) == {"consul", "web-1"}
    assert [s["ID"] for s in (await client.get("/v1/catalog/node-services/here")).json["Services"]] == [
        "consul",
        "web-1",
    ]
    assert set((await client.get("/v1/agent/services")).json) == {"web-1"}
    assert set((await client.get("/v1/agent/checks")).json) == {"service:web-1"}
    assert (await client.get("/v1/agent/service/web-1")).json["Service"] == "web"


async def test_passing_is_what_is_to_be_asked(client: Client) -> None:
    await register(client)
    assert (await client.get("/v1/health/service/web?passing")).json == []
    assert len((await client.get("/v1/health/service/web?passing=false")).json) == 1
    assert (await client.put("/v1/agent/check/pass/service:web-1?note=well")).body == b""
    (health,) = (await client.get("/v1/health/service/web?passing=1")).json
    assert health["Checks"][1]["Output"] == "well"
    assert [c["CheckID"] for c in (await client.get("/v1/health/state/passing")).json] == [
        "serfHealth",
        "service:web-1",
    ]
    await client.put("/v1/agent/check/warn/service:web-1")
    assert (await client.get("/v1/health/checks/web")).json[0]["Status"] == "warning"
    await client.put("/v1/agent/check/update/service:web-1", {"Status": "critical", "Output": "x" * 9000})
    assert len((await client.get("/v1/health/node/here")).json[1]["Output"]) == 4096


async def test_any_node_is_registered_in_the_catalog_and_leaves_it(client: Client) -> None:
    assert (await client.put("/v1/catalog/register", REMOTE)).body == b"true"
    assert [node["Node"] for node in (await client.get("/v1/catalog/nodes")).json] == ["far", "here"]
    assert [node["Node"] for node in (await client.get("/v1/catalog/nodes?near=_agent")).json] == ["here", "far"]
    assert (await client.get("/v1/catalog/service/db?tag=PRIMARY&tag=primary")).json[0]["ServiceID"] == "db"
    assert (await client.get("/v1/catalog/service/db?tag=other")).json == []
    assert (await client.put("/v1/catalog/deregister", {"Node": "far", "ServiceID": "db"})).body == b"true"
    assert (await client.get("/v1/catalog/node/far")).json["Services"] == {}
    assert (await client.put("/v1/catalog/deregister", {"Node": "far"})).body == b"true"
    assert (await client.get("/v1/catalog/node/far")).body == b"null"


async def test_node_meta_chooses(client: Client) -> None:
    await client.put("/v1/catalog/register", {**REMOTE, "NodeMeta": {"zone": "a"}})
    await register(client)
    assert (await client.get("/v1/catalog/services?node-meta=zone:a")).json == {"db": ["primary"]}
    assert [node["Node"] for node in (await client.get("/v1/catalog/nodes?node-meta=zone:a")).json] == ["far"]
    assert (await client.get("/v1/health/state/any?node-meta=zone:a")).json == []
    assert (await client.get("/v1/catalog/nodes?node-meta=:a")).status == 400


async def test_keys_in_any_case_and_checks_of_all_kinds(client: Client) -> None:
    checks = [
        {"http": "http://127.0.0.1/", "interval": "10s", "header": {"X": ["1"]}},
        {"TCP": "127.0.0.1:80", "Interval": 5_000_000_000, "DeregisterCriticalServiceAfter": "1m"},
        {"grpc": "127.0.0.1:80", "grpc_use_tls": True, "interval": "1s"},
        {"AliasService": "other"},
    ]
    await register(client, {"name": "all", "checks": checks, "enabletagoverride": True, "weights": {"passing": 5}})
    shown = (await client.get("/v1/health/checks/all")).json
    assert [check["Type"] for check in shown] == ["http", "tcp", "grpc", "alias"]
    assert shown[1]["Definition"]["Interval"] == "5s"
    service = (await client.get("/v1/agent/service/all")).json
    assert service["EnableTagOverride"] is True
    assert service["Weights"] == {"Passing": 5, "Warning": 1}


@pytest.mark.parametrize(
    ("target", "body", "status", "text"),
    [
        ("/v1/agent/service/register", {"ID": "x"}, 400, "Missing service name"),
        ("/v1/agent/service/register", {"Name": "x", "Check": {"TTL": "0s"}}, 400, "TTL must be > 0 for TTL checks"),
        ("/v1/agent/service/register", {"Name": "x", "Check": {"HTTP": "http://x"}}, 400, "Interval must be > 0"),
        ("/v1/agent/service/register", {"Name": "x", "Check": {"Args": ["x"], "Interval": "1s"}}, 500, "Scripts are"),
        ("/v1/agent/service/register", {"Name": "x", "Weights": {"Passing": 0}}, 400, "Invalid Weights"),
        ("/v1/agent/service/register", {"Name": "x", "Check": {"UDP": "a:1", "Interval": "1s"}}, 400, "not supported"),
        ("/v1/agent/service/register", "{", 400, "Request decode failed"),
        ("/v1/agent/service/deregister/x", "", 404, 'Unknown service ID "x"'),
        ("/v1/agent/service/maintenance/x?enable=true", "", 404, 'Unknown service ID "x"'),
        ("/v1/agent/service/maintenance/x", "", 400, "Missing value for enable"),
        ("/v1/agent/maintenance?enable=perhaps", "", 400, 'Invalid value for enable: "perhaps"'),
        ("/v1/agent/check/register", {"TTL": "1s"}, 400, "Missing check name"),
        ("/v1/agent/check/register", {"Name": "c", "TTL": "1s", "Status": "odd"}, 400, "Bad check status"),
        ("/v1/agent/check/register", {"Name": "c", "TTL": "1s", "ServiceID": "x"}, 404, 'ServiceID "x" does not exist'),
        ("/v1/agent/check/pass/x", "", 404, 'Unknown check ID "x". Ensure that the check ID is passed, not the'),
        ("/v1/agent/check/update/x", {"Status": "odd"}, 400, "Invalid check status: 'odd'"),
        ("/v1/agent/check/deregister/x", "", 404, 'Unknown check ID "x"'),
        ("/v1/agent/join/10.0.0.1", "", 500, "cannot be joined"),
        ("/v1/agent/force-leave/x", "", 500, "No node found"),
        ("/v1/catalog/register", {"Address": "a"}, 400, "Must provide node and address"),
        ("/v1/catalog/register", {**REMOTE, "Datacenter": "dc2"}, 500, "No path to datacenter"),
        ("/v1/catalog/register", {**REMOTE, "Check": {"ServiceID": "x"}}, 400, "Missing service registration"),
        ("/v1/catalog/deregister", {"ServiceID": "a"}, 400, "Must provide node"),
    ],
)
async def test_refusals_of_writes(client: Client, target: str, body: Any, status: int, text: str) -> None:
    response = await client.put(target, body)
    assert (response.status, text in response.text) == (status, True), response.text


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("/v1/health/service/", 400, "Missing service name"),
        ("/v1/health/checks/", 400, "Missing service name"),
        ("/v1/health/node/", 400, "Missing node name"),
        ("/v1/health/state/", 400, "Missing check state"),
        ("/v1/catalog/service/", 400, "Missing service name"),
        ("/v1/catalog/node/", 400, "Missing node name"),
        ("/v1/agent/service/x", 404, "unknown service ID: x"),
        ("/v1/agent/health/service/id/x", 404, "ServiceId x not found"),
        ("/v1/agent/health/service/name/x", 404, "ServiceName x Not Found"),
        ("/v1/agent/monitor?loglevel=odd", 400, "Unknown log level"),
    ],
)
async def test_refusals_of_reads(client: Client, target: str, status: int, text: str) -> None:
    response = await client.get(target)
    assert (response.status, text in response.text) == (status, True), response.text


async def test_maintenance(client: Client) -> None:
    await register(client, {"Name": "web"})
    await client.put("/v1/agent/service/maintenance/web?enable=true&reason=repair")
    checks = (await client.get("/v1/agent/checks")).json
    assert checks["_service_maintenance:web"]["Notes"] == "repair"
    await client.put("/v1/agent/service/maintenance/web?enable=false")
    await client.put("/v1/agent/maintenance?enable=true")
    assert set((await client.get("/v1/agent/checks")).json) == {"_node_maintenance"}
    assert (await client.get("/v1/health/service/web?passing")).json == []


@pytest.mark.parametrize(("status", "code"), [("pass", 200), ("warn", 429), ("fail", 503)])
async def test_what_a_load_balancer_asks(client: Client, status: str, code: int) -> None:
    await register(client)
    await client.put(f"/v1/agent/check/{status}/service:web-1")
    by_id = await client.get("/v1/agent/health/service/id/web-1")
    by_name = await client.get("/v1/agent/health/service/name/web?format=text")
    assert by_id.status == by_name.status == code
    assert by_id.json["AggregatedStatus"] == by_name.text


async def test_a_watcher_is_woken_by_its_own_service_alone(client: Client, world: FakeWorld) -> None:
    _, web = await blocked(client, "/v1/health/service/web")
    _, other = await blocked(client, "/v1/health/service/other")
    _, names = await blocked(client, "/v1/catalog/services")
    await register(client)
    await settled()
    assert web.done()
    assert names.done()
    assert not other.done()
    _, names = await blocked(client, "/v1/catalog/services")
    _, flat = await blocked(client, "/v1/catalog/service/web")
    await client.put("/v1/agent/check/pass/service:web-1")
    await settled()
    assert not names.done()
    assert not flat.done()
    await world.advance(70)
    assert (await other).json == []
    assert (await other).index == 1
    for waiting in (names, flat):
        await waiting


async def test_a_sidecar_is_an_instance_of_its_own(client: Client) -> None:
    await register(client, {"name": "web", "connect": {"sidecar_service": {}}, "kind": "typical", "socket_path": "/s"})
    services = (await client.get("/v1/agent/services")).json
    assert services["web"]["Kind"] == "typical"
    assert services["web-sidecar-proxy"]["Proxy"]["DestinationServiceName"] == "web"


async def test_the_cluster_is_this_registry(client: Client) -> None:
    (member,) = (await client.get("/v1/agent/members")).json
    assert (member["Name"], member["Status"]) == ("here", 1)
    assert (await client.get("/v1/agent/members?wan=1")).json[0]["Name"] == "here.dc1"
    assert (await client.put("/v1/agent/force-leave/here")).status == 200
    assert (await client.put("/v1/agent/reload")).status == 200
    metrics = (await client.get("/v1/agent/metrics")).json
    assert {"Name": "consul.state.nodes", "Value": 1, "Labels": {}} in metrics["Gauges"]
    assert "consul_state_nodes 1" in (await client.get("/v1/agent/metrics?format=prometheus")).text
    assert (await client.get("/v1/catalog/datacenters")).json == ["dc1"]
    assert (await client.put("/v1/agent/token/default", {})).text == "ACL support disabled"

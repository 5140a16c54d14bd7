"""Whatever a client sends, it gets a status and a text of the contract, and the registry goes on."""

from __future__ import annotations

import asyncio
import json
import logging
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gapless.api.consul import txn
from gapless.api.consul.agent_sights import Report
from gapless.api.consul.coordinate import Update
from gapless.api.consul.registrations import CheckBody, NodeBody, RemovalBody, ServiceBody, UpdateBody
from gapless.api.consul.session import Create
from tests.unit.consul_kit import Client, registry

_PATHS = """
/ /v1/kv/ /v1/kv/a /v1/kv/a/b /v1/txn /v1/session/create /v1/session/destroy/ /v1/session/renew/x
/v1/session/info/ /v1/session/node/n0 /v1/session/list /v1/event/fire/ /v1/event/fire/e /v1/event/list
/v1/status/leader /v1/status/peers /v1/coordinate/datacenters /v1/coordinate/nodes /v1/coordinate/node/n0
/v1/coordinate/update /v1/agent/self /v1/agent/members /v1/agent/host /v1/agent/version /v1/agent/metrics
/v1/agent/monitor /v1/agent/services /v1/agent/service/web /v1/agent/service/register
/v1/agent/service/deregister/web /v1/agent/service/maintenance/web /v1/agent/checks /v1/agent/check/register
/v1/agent/check/deregister/c /v1/agent/check/pass/c /v1/agent/check/warn/c /v1/agent/check/fail/c
/v1/agent/check/update/c /v1/agent/maintenance /v1/agent/health/service/id/web
/v1/agent/health/service/name/web /v1/agent/join/x /v1/agent/force-leave/x /v1/agent/token/default
/v1/catalog/register /v1/catalog/deregister /v1/catalog/datacenters /v1/catalog/nodes /v1/catalog/services
/v1/catalog/service/web /v1/catalog/node/n0 /v1/catalog/node-services/n0 /v1/catalog/connect/web
/v1/health/service/web /v1/health/checks/web /v1/health/node/n0 /v1/health/state/any /v1/health/connect/web
/v1/acl/token /v1/config/x /v1/nothing
"""
PATHS = _PATHS.split()
STATUSES = {200, 400, 401, 403, 404, 405, 409, 413, 500, 501}
_NAMES = """
index wait stale consistent pretty recurse keys raw separator flags cas acquire release dc token passing tag
filter near node-meta name node service enable reason note peer merge-central-config cached loglevel format
wan ns x
"""
NAMES = _NAMES.split()
VALUES = st.sampled_from(
    [
        "",
        "0",
        "1",
        "-1",
        "x",
        "true",
        "false",
        "10ms",
        "1h",
        "9" * 30,
        "%00",
        "%C3%A7",
        "%ff",
        "%zz",
        "(",
        "a:b",
        "n0",
        "web",
    ]
) | st.text("ab=%&+ ", max_size=4).map(lambda text: text.replace("&", ""))
QUERIES = st.lists(st.tuples(st.sampled_from(NAMES), st.none() | VALUES), max_size=3).map(
    lambda pairs: "&".join(name if value is None else f"{name}={value}" for name, value in pairs if name != "index")
)
TEXTS = st.text(max_size=6) | st.sampled_from(
    [
        "10s",
        "15s",
        "1h",
        "passing",
        "warning",
        "n0",
        "n1",
        "web",
        "web-1",
        "delete",
        "serfHealth",
        "YQ==",
        "127.0.0.1",
        "a",
        "a/b",
    ]
)
VERBS = sorted({*txn.VERBS, "explode"})
JUNK = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.lists(st.text(max_size=3), max_size=2)
)
KINDS = {
    "/v1/agent/service/register": ServiceBody,
    "/v1/agent/check/register": CheckBody,
    "/v1/agent/check/update/c": UpdateBody,
    "/v1/agent/gapless/sights": Report,
    "/v1/catalog/register": NodeBody,
    "/v1/catalog/deregister": RemovalBody,
    "/v1/coordinate/update": Update,
    "/v1/session/create": Create,
    "/v1/txn": list[txn.TxnOp],
}
"""What is expected where."""


def documents(kind: Any) -> st.SearchStrategy[Any]:
    """JSON of about that shape: now and then something is missing, wrong or strange."""
    return st.integers(0, 19).flatmap(lambda luck: JUNK if luck == 0 else _documents(kind))


def _documents(kind: Any) -> st.SearchStrategy[Any]:
    if get_origin(kind) in (Union, UnionType):
        return documents(get_args(kind)[0])
    if get_origin(kind) in (list, tuple):
        return st.lists(documents(get_args(kind)[0]), min_size=1, max_size=3)
    if get_origin(kind) is dict:
        return st.dictionaries(st.text(max_size=4) | st.just("version"), documents(get_args(kind)[1]), max_size=2)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        needed = {name: one_of_kind(name, field.type) for name, field in fields.items() if name in NEEDED}
        others = {name: one_of_kind(name, field.type) for name, field in fields.items() if name not in NEEDED}
        return (
            st.lists(st.sampled_from(sorted(others)), max_size=4).flatmap(
                lambda names: st.fixed_dictionaries(needed, optional={name: others[name] for name in names})
            )
            if others
            else st.fixed_dictionaries(needed)
        )
    return {int: st.integers(0, 70_000), float: st.floats(0, 10), bool: st.booleans()}.get(kind, TEXTS)


NEEDED = frozenset({"Name", "Node", "Address", "Verb", "Key", "KV", "TTL", "Coord", "Status"})


def one_of_kind(name: str, kind: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(VERBS) if name == "Verb" else documents(kind)


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


ANY = st.binary(max_size=20) | st.recursive(JUNK | TEXTS, lambda inner: st.lists(inner, max_size=2), max_leaves=5).map(
    encoded
)
STRAY = st.tuples(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"]), st.sampled_from(PATHS), QUERIES, ANY
)
READS = st.tuples(st.just("GET"), st.sampled_from(PATHS), QUERIES, st.just(b""))
WRITES = st.sampled_from(sorted(KINDS)).flatmap(
    lambda path: st.tuples(st.just("PUT"), st.just(path), st.just(""), documents(KINDS[path]).map(encoded))
)
ACTS = st.tuples(st.just("PUT"), st.sampled_from(PATHS), QUERIES, st.just(b""))
REQUESTS = WRITES | READS | ACTS | STRAY


@given(st.lists(REQUESTS, min_size=1, max_size=8))
def test_any_request_has_an_answer_of_the_contract(requests: list[tuple[str, str, str, bytes]]) -> None:
    asyncio.run(_ask(requests))


async def _ask(requests: list[tuple[str, str, str, bytes]]) -> None:
    failures: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = failures.append  # type: ignore[method-assign]
    logging.getLogger("gapless.registry").addHandler(handler)
    try:
        async with registry() as (client, _):
            for method, path, query, body in requests:
                await _check(client, method, f"{path}?{query}", body)
            assert (await client.put("/v1/kv/still", b"here")).text == "true"
    finally:
        logging.getLogger("gapless.registry").removeHandler(handler)
    assert not failures, failures[0].exc_text or failures[0].getMessage()


async def _check(client: Client, method: str, target: str, body: bytes) -> None:
    response = await asyncio.wait_for(client.ask(method, target, body), 20)
    asked: Any = (method, target, body, response.text)
    assert response.status in STATUSES, asked
    assert (
        response.status == 200 or response.text or method == "HEAD" or "/kv/" in target or "/coordinate/" in target
    ), asked
    assert not response.text.startswith("internal error"), asked
    if response.headers.get("content-type") == "application/json" and response.body:
        json.loads(response.body)
    if "x-consul-index" in response.headers:
        assert response.index >= 1

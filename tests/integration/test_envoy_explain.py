"""What `gapless route explain` says, asked of the real Envoy: 10,000 random requests, every kind of split."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from gapless.core.model import (
    Address,
    Condition,
    Endpoint,
    Entrance,
    Exceptions,
    Group,
    Override,
    PathKind,
    Route,
    RouteTable,
    ServiceTable,
    SplitBy,
    ValueKind,
)
from gapless.gateway.explain import explain
from gapless.gateway.match import Request
from tests.integration.envoy_kit import HOST, Client, Reply, Rig, ask, running, service
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = 10_000
CLIENTS = 8
ADDRESSES = [f"127.0.{i}.{j}" for i, j in ((0, 1), (0, 2), (7, 9), (20, 1), (21, 77), (0, 200), (9, 9), (3, 3))]
SPLITS = [
    (SplitBy.USER, ""),
    (SplitBy.ID, ""),
    (SplitBy.HEADER, "x-tenant"),
    (SplitBy.COOKIE, "session"),
    (SplitBy.ADDRESS, ""),
    (SplitBy.REQUEST, ""),
]
EXCEPTIONS = Exceptions(
    override=Override(allow=("127.0.0.0/28", "::1/128")),
    always=Group(users=("7", "alice", "o'neil (x)"), addresses=("127.0.20.0/23",)),
    never=Group(users=("8", "bob"), addresses=("127.0.0.200/32",)),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


def split_services(endpoints: list[Endpoint]) -> list[ServiceTable]:
    return [
        replace(
            service(
                endpoints, name=f"by-{by}", canary=3_000, by=by, salt=rf"odd \1 {by}", routes=[Route(path=f"/by/{by}")]
            ),
            exceptions=EXCEPTIONS,
        )
        for by, _ in SPLITS
    ]


def named(services: list[ServiceTable]) -> list[ServiceTable]:
    names = {f"by-{by}": name for by, name in SPLITS}
    return [replace(each, split=replace(each.split, by_name=names[each.service])) for each in services]


async def matched_services(rig: Rig) -> list[ServiceTable]:
    """One instance each, named as its service, and routes in each other's way."""

    async def only(name: str, *routes: Route) -> ServiceTable:
        return service([(await rig.upstream(name)).endpoint("1")], name=name, routes=routes)

    gold = Condition(name="x-tenant", value="gold")
    silver = Condition(name="x-tenant", kind=ValueKind.REGEX, value="si[lv]+er|t-[0-9]")
    no_debug = Condition(name="x-debug", kind=ValueKind.PRESENT, invert=True)
    return [
        await only("root", Route(path="/")),
        await only("m", Route(path="/m"), Route(path="/m", methods=("POST", "PUT"))),
        await only("m-gold", Route(path="/m", headers=(gold,)), Route(path="/m/deep", headers=(no_debug,))),
        await only("m-silver", Route(path="/m", headers=(silver, no_debug))),
        await only("m-host", Route(path="/m", host="*.example.com"), Route(path="/m/deep", host="a.example.com")),
        await only("m-exact", Route(path="/m/deep", path_kind=PathKind.EXACT, methods=("GET",))),
        await only("m-regex", Route(path="/m/[0-9]+(/.*)?", path_kind=PathKind.REGEX)),
        await only("m-query", Route(path="/m", query=(Condition(name="v", value="2"),))),
    ]


def some_request(dice: random.Random, address: str, number: int) -> Request:
    users = [str(dice.randrange(100_000)), f"u-{dice.randrange(500)}", "7", "8", "alice", "bob", "o'neil (x)", ""]
    headers = {"x-request-id": f"r-{number}"}
    choices = {
        "x-user-id": users,
        "x-tenant": ["gold", "silver", "sier", "t-3", "golden", "x"],
        "x-debug": ["1"],
        "x-gapless-release": ["1", "2", "3"],
    }
    shown = {"x-user-id": 0.6, "x-tenant": 0.5, "x-debug": 0.2, "x-gapless-release": 0.1}
    headers |= {name: dice.choice(values) for name, values in choices.items() if dice.random() < shown[name]}
    cookies = [
        f"gapless-user=v-{dice.randrange(300)}",
        f"session=s{dice.randrange(300)}",
        "gapless-release=2",
        "a=b; c",
    ]
    if chosen := [each for each in cookies if dice.random() < 0.25]:
        headers["cookie"] = dice.choice(["; ", ";", " ; "]).join(dice.sample(chosen, len(chosen)))
    paths = [
        *(f"/by/{by}/{number}" for by, _ in SPLITS),
        "/m",
        "/m/deep",
        "/m/7/x",
        "/m?v=2",
        "/m/deep/x?v=1&v=2",
        "/z",
    ]
    weights = [3] * len(SPLITS) + [1] * 6
    return Request(
        path=dice.choices(paths, weights)[0],
        host=dice.choice(["localhost", "a.example.com", "B.example.com:8080", "example.com"]),
        method=dice.choice(["GET", "GET", "POST", "PUT", "DELETE"]),
        headers=headers,
        address=address,
    )


async def test_ten_thousand_requests_go_where_it_was_explained(rig: Rig) -> None:
    old, new = await rig.upstream("old"), await rig.upstream("new")
    both = [old.endpoint("1"), new.endpoint("2")]
    table = RouteTable(version=1, services=(*named(split_services(both)), *await matched_services(rig)))
    await rig.traffic.apply(table)
    met: Counter[tuple[str, str]] = Counter()
    wrong: list[tuple[Request, str, str, str]] = []

    async def some(number: int) -> None:
        address = ADDRESSES[number]
        dice, client = random.Random(f"explain-{number}"), Client(rig.port, address)
        try:
            for i in range(number, REQUESTS, CLIENTS):
                request = some_request(dice, address, i)
                told = explain(table, request)
                reply = await client.ask(
                    request.path, method=request.method, host=request.host, headers=request.headers
                )
                met[told["service"], reply.release] += 1
                if not agrees(told, reply):
                    wrong.append((request, told["service"], told["release"], reply.body.decode()))
        finally:
            await client.close()

    await asyncio.gather(*map(some, range(CLIENTS)))
    assert not wrong, wrong[:3]
    assert sum(met.values()) == REQUESTS
    for by, _ in SPLITS:
        assert met[f"by-{by}", "1"] > 100
        assert met[f"by-{by}", "2"] > 100
    # Each service is met, so that a route in the wrong order would have been seen.
    assert {name for name, _ in met} >= {each.service for each in table.services}


def agrees(told: dict[str, object], reply: Reply) -> bool:
    """Of services with two releases the path tells which it was; chance may choose either."""
    if told["chance"]:
        return reply.status == 200
    instance = {"1": b"old", "2": b"new"}[str(told["release"])]
    expected = instance if str(told["service"]).startswith("by-") else str(told["service"]).encode()
    return (reply.release, reply.body) == (told["release"], expected)


async def test_behind_a_proxy_the_last_address_that_it_saw_is_the_clients() -> None:
    """What clients write themselves stands before it, and counts for nothing."""
    port = free_port(HOST)
    async with running(Entrance(listen=Address(host=HOST, port=port), proxies=1)) as rig:
        old, new = await rig.upstream("old"), await rig.upstream("new")
        found = service([old.endpoint("1"), new.endpoint("2")], canary=1, routes=[Route(path="/")])
        exceptions = Exceptions(always=Group(addresses=("10.0.0.0/8",)), override=Override(allow=()))
        await rig.traffic.apply(RouteTable(version=1, services=(replace(found, exceptions=exceptions),)))
        asked = {"10.1.2.3": "2", "10.1.2.3, 192.0.2.1": "1", "192.0.2.1, 10.1.2.3": "2", "nonsense": "1"}
        told = {}
        for forwarded in asked:
            headers = {"x-forwarded-for": forwarded, "x-user-id": "u-1"}
            told[forwarded] = (await ask(rig.port, "/", headers=headers)).release
        assert told == asked
        assert (await ask(rig.port, "/", headers={"x-user-id": "u-1"})).release == "1"

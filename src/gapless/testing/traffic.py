"""A data plane that only pretends, and the checks that it and every real one pass.

@asynccontextmanager
async def make():
    traffic = FakeTraffic(FakeWorld())
    yield FakeTrafficRig(traffic)

await check_traffic(make)                                   # or, one test for each:
@pytest.mark.parametrize("check", TRAFFIC_CHECKS, ids=lambda check: check.__name__)
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from gapless.core.errors import TrafficRefused
from gapless.core.model import (
    BUCKETS,
    HISTOGRAM_BOUNDS_S,
    Address,
    Endpoint,
    Route,
    RouteTable,
    ServiceTable,
    Split,
    SplitBy,
    Window,
    bucket_of,
)
from gapless.core.ports import Traffic, World
from gapless.gateway.match import Request, matching
from gapless.gateway.rules import choose
from gapless.observe.metrics import Sample
from gapless.observe.trace.spans import Span
from gapless.testing._traffic_routing import ROUTING_CHECKS

LIMIT_S = 60.0
"""Real seconds after which a check counts as hanging: generous, because test machines are busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client got. `release` is the response's `x-gapless-release`, `instance` who answered (""
    when the gateway did)."""

    status: int
    release: str = ""
    instance: str = ""


@dataclass(slots=True)
class _Look:
    """Figures that a test has put in."""

    at: float
    service: str
    release: str
    requests: int
    errors: int
    latency_s: float
    users: tuple[str, ...]


@dataclass(slots=True)
class FakeTraffic:
    """`core.ports.Traffic` and `Metrics` without a proxy, with the rest of what a control plane needs of a gateway.

    `refuse`: Envoy's words for the next tables; empty means that they are taken. `applied` holds every table that was.
    `ask` answers as the data plane would; `record` puts in what `window` tells.
    """

    world: World
    refuse: str = ""
    applied: list[RouteTable] = field(default_factory=list)
    pid: int = 0
    restarts: int = 0
    _looks: list[_Look] = field(default_factory=list)
    _turns: count[int] = field(default_factory=count)

    @property
    def table(self) -> RouteTable:
        """The one in force; empty before the first."""
        return self.applied[-1] if self.applied else RouteTable(version=0, services=())

    @property
    def settled(self) -> bool:
        return bool(self.pid)

    def spans(self) -> list[Span]:
        return []

    def samples(self) -> list[Sample]:
        return []

    async def start(self) -> None:
        self.pid = 1

    async def adopt(self) -> None:
        self.pid = 1

    async def stop(self, drain_s: float = 0.0) -> None:
        self.pid = 0

    async def detach(self) -> None: ...

    async def renew(self, binary: Path | None = None) -> None:
        self.pid += 1

    async def details(self) -> dict[str, Any]:
        return {"running": bool(self.pid), "pid": self.pid, "version": "0", "leaving": self.pid - 1}

    async def apply(self, table: RouteTable) -> int:
        """Raises TrafficRefused while `refuse` says so."""
        await asyncio.sleep(0)  # as a real one, it lets others run
        if self.refuse:
            raise TrafficRefused(f"Envoy refuses the routes: {self.refuse}")
        self.applied.append(table)
        return table.version

    def ask(
        self,
        path: str,
        *,
        host: str = "localhost",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Answer:
        """The answer to a request of a client at `address`. Instances take turns."""
        request = Request(path=path, host=host, method=method, headers=headers or {}, address=address)
        found = matching(self.table, request)
        if found is None:
            return Answer(status=404)
        _, service = found
        release, _ = choose(service, request, self.world.random())
        asked = [e for e in service.endpoints if e.release == release and not e.draining]
        if not asked:
            return Answer(status=503, release=release)
        return Answer(status=200, release=release, instance=asked[next(self._turns) % len(asked)].instance)

    def record(
        self,
        service: str,
        release: str,
        *,
        requests: int = 1,
        errors: int = 0,
        latency_s: float = 0.01,
        users: tuple[str, ...] = (),
    ) -> None:
        """So many answers have just been given; `users` are those of the errors."""
        look = _Look(self.world.time(), service, release, requests, errors, latency_s, users)
        self._looks.append(look)

    async def window(self, service: str, release: str, since_at: float, until_at: float) -> Window:
        looks = [x for x in self._looks if (x.service, x.release) == (service, release)]
        looks = [x for x in looks if since_at <= x.at < until_at]
        latency = [0] * (len(HISTOGRAM_BOUNDS_S) + 1)
        for look in looks:
            latency[bisect_left(HISTOGRAM_BOUNDS_S, look.latency_s)] += look.requests
        return Window(
            requests=sum(x.requests for x in looks),
            errors=sum(x.errors for x in looks),
            failed=tuple(user for x in looks for user in x.users),
            latency=tuple(latency),
        )


class TrafficRig(Protocol):
    """A data plane under test, with nothing applied or whatever the check before has left."""

    traffic: Traffic

    async def endpoint(self, service: str, release: str, instance: str) -> Endpoint:
        """An instance that runs and answers every request with 200 and its own name."""
        ...

    async def ask(
        self,
        path: str,
        *,
        host: str = "localhost",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Answer:
        """A request through the data plane, from an address of this machine (127.0.0.0/8)."""
        ...


@dataclass(slots=True)
class FakeTrafficRig:
    """The rig of a FakeTraffic."""

    traffic: FakeTraffic
    _ports: count[int] = field(default_factory=lambda: count(20_000))

    async def endpoint(self, service: str, release: str, instance: str) -> Endpoint:
        return Endpoint(instance=instance, release=release, address=Address(host="127.0.0.1", port=next(self._ports)))

    async def ask(
        self,
        path: str,
        *,
        host: str = "localhost",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Answer:
        return self.traffic.ask(path, host=host, method=method, headers=headers, address=address)


TrafficCheck = Callable[[TrafficRig], Awaitable[None]]
MakeTraffic = Callable[[], AbstractAsyncContextManager[TrafficRig]]


def _table(*services: ServiceTable, version: int = 1) -> RouteTable:
    return RouteTable(version=version, services=services)


def _service(
    name: str, endpoints: tuple[Endpoint, ...], *routes: Route, canary: int = 0, by: SplitBy = SplitBy.USER
) -> ServiceTable:
    """Stable release 1, newcomer 2 with `canary` buckets."""
    weights = (("2", canary), ("1", BUCKETS - canary))
    split = Split(service=name, stable="1", weights=weights, by=by, salt=f"{name}-7")
    return ServiceTable(service=name, split=split, endpoints=endpoints, routes=routes)


async def _pair(rig: TrafficRig) -> tuple[Endpoint, ...]:
    """An instance of either release."""
    return (await rig.endpoint("orders", "1", "old"), await rig.endpoint("orders", "2", "new"))


async def _releases(rig: TrafficRig, users: int) -> dict[str, str]:
    """user → release that answered."""
    found = {}
    for i in range(users):
        answer = await rig.ask("/orders", headers={"x-user-id": f"user-{i}"})
        found[f"user-{i}"] = answer.release
    return found


async def a_table_is_acknowledged_by_its_version(rig: TrafficRig) -> None:
    assert await rig.traffic.apply(_table(version=41)) == 41
    assert await rig.traffic.apply(_table(version=42)) == 42


async def what_nobody_routes_is_not_found(rig: TrafficRig) -> None:
    endpoint = await rig.endpoint("hidden", "1", "h")
    await rig.traffic.apply(_table(_service("hidden", (endpoint,))))
    assert (await rig.ask("/hidden")).status == 404


async def the_longest_path_wins(rig: TrafficRig) -> None:
    places = {"/": "root", "/orders": "orders", "/orders/archive": "archive"}
    services = [_service(n, (await rig.endpoint(n, "1", n),), Route(path=path)) for path, n in places.items()]
    await rig.traffic.apply(_table(*services))
    asked = {"/": "root", "/orders": "orders", "/orders/7?x=/": "orders", "/orders/archive/1": "archive"}
    asked |= {"/orders-old": "root", "/else": "root"}
    assert {path: (await rig.ask(path)).instance for path in asked} == asked


async def hosts_are_told_apart(rig: TrafficRig) -> None:
    shop = _service("shop", (await rig.endpoint("shop", "1", "shop"),), Route(path="/", host="shop.example.com"))
    other = _service("other", (await rig.endpoint("other", "1", "other"),), Route(path="/"))
    deep = _service("deep", (await rig.endpoint("deep", "1", "deep"),), Route(path="/deep"))
    await rig.traffic.apply(_table(shop, other, deep))
    assert (await rig.ask("/", host="shop.example.com")).instance == "shop"
    assert (await rig.ask("/deep", host="shop.example.com")).instance == "deep"
    assert (await rig.ask("/", host="else.example.com")).instance == "other"


async def users_meet_the_release_of_their_bucket(rig: TrafficRig) -> None:
    service = _service("orders", await _pair(rig), Route(path="/orders"), canary=3_000)
    await rig.traffic.apply(_table(service))
    found = await _releases(rig, 200)
    assert found == {user: service.split.release_of(bucket_of(user, service.split.salt)) for user in found}


async def raising_a_share_only_adds_users(rig: TrafficRig) -> None:
    endpoints = await _pair(rig)
    moved: set[str] = set()
    for share in (500, 2_500, 5_000):
        await rig.traffic.apply(_table(_service("orders", endpoints, Route(path="/orders"), canary=share)))
        now = {user for user, release in (await _releases(rig, 100)).items() if release == "2"}
        assert moved <= now
        moved = now
    assert moved


async def a_split_by_request_gives_everybody_both(rig: TrafficRig) -> None:
    service = _service("orders", await _pair(rig), Route(path="/orders"), canary=5_000, by=SplitBy.REQUEST)
    await rig.traffic.apply(_table(service))
    answers = [await rig.ask("/orders", headers={"x-user-id": "one"}) for _ in range(60)]
    assert {a.release for a in answers} == {"1", "2"}


async def a_request_can_choose_its_release(rig: TrafficRig) -> None:
    await rig.traffic.apply(_table(_service("orders", await _pair(rig), Route(path="/orders"))))
    chosen = {
        "new": {"x-gapless-release": "2"},
        "old": {"x-gapless-release": "unheard-of", "x-user-id": "u"},
    }
    chosen_by_cookie = {"cookie": "a=1; gapless-release=2; b=2"}
    assert {name: (await rig.ask("/orders", headers=h)).instance for name, h in chosen.items()} == {
        "new": "new",
        "old": "old",
    }
    assert (await rig.ask("/orders", headers=chosen_by_cookie)).instance == "new"


async def a_draining_instance_gets_nothing_new(rig: TrafficRig) -> None:
    stays = await rig.endpoint("orders", "1", "stays")
    leaves = await rig.endpoint("orders", "1", "leaves")
    await rig.traffic.apply(_table(_service("orders", (stays, leaves), Route(path="/orders"))))
    assert {(await rig.ask("/orders")).instance for _ in range(40)} == {"stays", "leaves"}
    going = Endpoint(instance="leaves", release="1", address=leaves.address, draining=True)
    for without in ((stays, going), (stays,)):
        await rig.traffic.apply(_table(_service("orders", without, Route(path="/orders"))))
        assert {(await rig.ask("/orders")).instance for _ in range(40)} == {"stays"}


async def a_release_without_instances_is_stood_in_for(rig: TrafficRig) -> None:
    old, new = await _pair(rig)
    for endpoints, name in (((old,), "old"), ((new,), "new")):
        await rig.traffic.apply(_table(_service("orders", endpoints, Route(path="/orders"), canary=5_000)))
        answers = [await rig.ask("/orders", headers={"x-user-id": f"u{i}"}) for i in range(20)]
        assert {a.instance for a in answers} == {name}


async def a_service_without_instances_is_unavailable(rig: TrafficRig) -> None:
    await rig.traffic.apply(_table(_service("orders", (), Route(path="/orders"))))
    answer = await rig.ask("/orders")
    assert (answer.status, answer.release) == (503, "1")
    await rig.traffic.apply(_table(_service("orders", await _pair(rig), Route(path="/orders"))))
    assert (await rig.ask("/orders")).instance == "old"


TRAFFIC_CHECKS: tuple[TrafficCheck, ...] = (
    a_table_is_acknowledged_by_its_version,
    what_nobody_routes_is_not_found,
    the_longest_path_wins,
    hosts_are_told_apart,
    users_meet_the_release_of_their_bucket,
    raising_a_share_only_adds_users,
    a_split_by_request_gives_everybody_both,
    a_request_can_choose_its_release,
    a_draining_instance_gets_nothing_new,
    a_release_without_instances_is_stood_in_for,
    a_service_without_instances_is_unavailable,
    *ROUTING_CHECKS,
)


async def check_traffic(make: MakeTraffic) -> None:
    """Run every check. Raises AssertionError or TimeoutError, with the check's name in a note."""
    for check in TRAFFIC_CHECKS:
        async with make() as rig:
            await run_check(check, rig)


async def run_check(check: TrafficCheck, rig: TrafficRig) -> None:
    """Run one check. Raises AssertionError or TimeoutError, with the check's name in a note."""
    try:
        async with asyncio.timeout(LIMIT_S):
            await check(rig)
    except BaseException as error:
        error.add_note(f"in the traffic check {getattr(check, '__name__', check)!r}")
        raise

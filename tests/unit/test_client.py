"""The service client: whom it asks, what it carries, when it asks again and when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.errors import Unavailable
from gapless.core.model import BUCKETS, Address, Endpoint, RouteTable, ServiceTable, Split, SplitBy, bucket_of
from gapless.discovery.directory import Directory
from gapless.observe.log import request_id
from gapless.resilience import deadline, pushback
from gapless.resilience.budget import Ratio
from gapless.resilience.retry import RetryPolicy
from gapless.service.call import body_of, pools
from gapless.service.client import Client
from gapless.service.requests import Exchange
from gapless.service.transport import Broken, Response, Sending, Unsent, joined
from gapless.testing import FakeWorld

OK = Response(status=200, headers={}, content=b'{"ok":true}')
Reply = Callable[[Address, Sending], Any]


class FakeTransport:
    """Answers by a script: a Response, an exception, or seconds to hang for."""

    def __init__(self, world: FakeWorld, reply: Reply) -> None:
        self.world, self.reply = world, reply
        self.asked: list[tuple[int, Sending]] = []

    async def send(self, address: Address, sending: Sending) -> Response:
        self.asked.append((address.port, sending))
        said = self.reply(address, sending)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, float):
            await self.world.sleep(said)
            return OK
        assert isinstance(said, Response)
        return said

    async def aclose(self) -> None: ...

    @property
    def ports(self) -> list[int]:
        return [port for port, _ in self.asked]


def endpoint(port: int, release: str = "1") -> Endpoint:
    return Endpoint(instance=f"i{port}", release=release, address=Address(host="h", port=port))


def table(*endpoints: Endpoint, canary: int = 0, by: SplitBy = SplitBy.USER, timeout_s: float = 15.0) -> RouteTable:
    split = Split(service="stock", stable="1", weights=(("2", canary), ("1", BUCKETS - canary)), by=by, salt="r1")
    return RouteTable(
        version=1, services=(ServiceTable(service="stock", split=split, endpoints=endpoints, timeout_s=timeout_s),)
    )


def client(
    reply: Reply, known: RouteTable | None = None, seed: int = 1, **options: Any
) -> tuple[Client, FakeTransport]:
    world = FakeWorld(seed)
    transport = FakeTransport(world, reply)
    directory = Directory(world, table=known or table(endpoint(1), endpoint(2)))
    return Client("stock", directory=directory, world=world, transport=transport, **options), transport


async def done(transport: FakeTransport, work: Any, seconds: float = 60) -> Any:
    task = asyncio.ensure_future(work)
    await transport.world.advance(seconds)
    return await task


def answer(status: int, **headers: str) -> Response:
    return Response(
        status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, content=b""
    )


async def test_a_refused_instance_is_passed_over_for_any_method_and_avoided_afterwards() -> None:
    asking, transport = client(lambda to, _: Unsent("refused") if to.port == 1 else OK)
    for _ in range(20):
        assert (await done(transport, asking.post("/reserve", json={"n": 1}), 0)).status == 200
    assert transport.ports.count(2) == 20
    assert transport.ports.count(1) == 1, "the dead one was asked once"


async def test_all_are_tried_when_most_are_dead() -> None:
    known = table(*(endpoint(port) for port in range(1, 9)))
    asking, transport = client(lambda to, _: OK if to.port == 8 else Unsent("refused"), known)
    assert (await done(transport, asking.post("/"), 1)).status == 200
    assert len(set(transport.ports)) == len(transport.ports)


async def test_what_may_have_been_done_is_not_sent_again() -> None:
    asking, transport = client(lambda *_: Broken("reset by peer"))
    with pytest.raises(
        Unavailable, match=r"may not be sent again; tried:\n  i\d at h:\d: connection broke \(reset by peer\)"
    ):
        await done(transport, asking.post("/reserve"))
    assert len(transport.asked) == 1


@pytest.mark.parametrize("options", [{"idempotency_key": "k1"}, {"headers": {"Idempotency-Key": "k1"}}])
async def test_an_idempotency_key_makes_it_repeatable(options: dict[str, Any]) -> None:
    asking, transport = client(lambda *_: Broken("reset") if len(transport.asked) < 3 else OK)
    assert (await done(transport, asking.post("/pay", **options))).status == 200
    assert len(transport.asked) == 3
    assert {dict(sending.headers)[b"idempotency-key"] for _, sending in transport.asked} == {b"k1"}


@pytest.mark.parametrize(("method", "asked"), [("GET", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)])
async def test_503_is_asked_elsewhere_only_by_idempotent_methods(method: str, asked: int) -> None:
    asking, transport = client(lambda *_: answer(503) if len(transport.asked) == 1 else OK)
    answered = await done(transport, asking.request(method, "/"))
    assert (len(transport.asked), answered.status) == (asked, 200 if asked == 2 else 503)
    assert len(set(transport.ports)) == asked


async def test_the_last_answer_is_given_back_when_the_attempts_are_used_up() -> None:
    asking, transport = client(lambda *_: answer(502))
    assert (await done(transport, asking.get("/"))).status == 502
    assert len(transport.asked) == 3


async def test_500_is_the_applications_answer() -> None:
    asking, transport = client(lambda *_: answer(500))
    assert (await done(transport, asking.get("/"))).status == 500
    assert len(transport.asked) == 1


async def test_an_instance_that_hangs_leaves_time_for_another() -> None:
    asking, transport = client(lambda *_: 99.0 if len(transport.asked) == 1 else OK)
    began = transport.world.now()
    assert (await done(transport, asking.get("/", deadline_s=4))).status == 200
    told = [int(dict(sending.headers)[deadline.HEADER]) for _, sending in transport.asked]
    assert told[0] == 2000
    assert told[1] <= 1000
    assert transport.world.now() - began == 60


async def test_the_deadline_ends_everything() -> None:
    asking, transport = client(lambda *_: 99.0)
    task = asyncio.ensure_future(asking.get("/", deadline_s=3))
    await transport.world.advance(3)
    assert task.done()
    with pytest.raises(Unavailable, match="the deadline passed"):
        task.result()
    assert transport.world.pending == 0


async def test_the_deadline_of_the_request_being_served_is_inherited() -> None:
    asking, transport = client(lambda *_: OK)
    token = deadline.current.set(1.25)
    try:
        await asking.post("/", deadline_s=9)
    finally:
        deadline.current.reset(token)
    assert dict(transport.asked[0][1].headers)[deadline.HEADER] == b"1250"
    await asking.post("/")
    assert dict(transport.asked[1][1].headers)[deadline.HEADER] == b"15000"


async def test_headers_are_inherited_and_overridden() -> None:
    asking, transport = client(lambda *_: OK)
    serving = Exchange({}, None, [], b"", 0.0)
    serving.headers = {b"traceparent": b"00-a-b-01", b"x-user-id": b"ann", b"cookie": b"secret"}
    token = pushback.served.set(serving)
    named = request_id.set("r1")
    try:
        await asking.post("/", json={"a": 1}, user="bob", headers={"X-Extra": "1"})
    finally:
        pushback.served.reset(token)
        request_id.reset(named)
    sent = dict(transport.asked[0][1].headers)
    assert sent.pop(deadline.HEADER)
    assert sent == {
        b"x-request-id": b"r1",
        b"traceparent": b"00-a-b-01",
        b"x-user-id": b"bob",
        b"content-type": b"application/json",
        b"x-extra": b"1",
    }
    assert transport.asked[0][1].content == b'{"a":1}'


async def test_the_split_is_followed_by_the_users_bucket() -> None:
    known = table(endpoint(1), endpoint(2, "2"), canary=3000)
    asking, transport = client(lambda *_: OK, known)
    for n in range(200):
        await asking.get("/", user=f"u{n}")
    wanted = [2 if bucket_of(f"u{n}", "r1") < 3000 else 1 for n in range(200)]
    assert transport.ports == wanted
    assert 30 < wanted.count(2) < 90


async def test_without_a_user_the_die_decides() -> None:
    asking, transport = client(lambda *_: OK, table(endpoint(1), endpoint(2, "2"), canary=5000))
    for _ in range(200):
        await asking.get("/")
    assert 60 < transport.ports.count(2) < 140


async def test_a_release_without_instances_falls_back_to_the_stable_one() -> None:
    asking, transport = client(lambda *_: OK, table(endpoint(1), canary=BUCKETS))
    await asking.get("/", user="ann")
    assert transport.ports == [1]


async def test_a_dead_canary_costs_its_users_nothing() -> None:
    known = table(endpoint(1), endpoint(2, "2"), canary=BUCKETS)
    asking, transport = client(lambda to, _: Unsent("refused") if to.port == 2 else OK, known)
    assert (await asking.post("/", user="ann")).status == 200
    assert transport.ports == [2, 1]


async def test_nobody_reachable_is_waited_out_for_a_while() -> None:
    asking, transport = client(lambda *_: Unsent("refused") if transport.world.now() < 0.4 else OK)
    assert (await done(transport, asking.post("/"))).status == 200
    asking, transport = client(lambda *_: Unsent("refused"))
    with pytest.raises(Unavailable, match="nobody could be reached; tried:"):
        await done(transport, asking.post("/"))
    assert len(transport.asked) <= 2 * 11


async def test_a_key_in_flight_is_waited_for() -> None:
    asking, transport = client(lambda *_: answer(409, retry_after="1") if transport.world.now() < 1 else OK)
    assert (await done(transport, asking.post("/pay", idempotency_key="k"))).status == 200
    asking, transport = client(lambda *_: answer(409))
    assert (await done(transport, asking.post("/pay", idempotency_key="k"))).status == 409
    assert len(transport.asked) == 1


async def test_retries_stop_when_the_budget_is_spent() -> None:
    asking, transport = client(lambda *_: answer(503), policy=RetryPolicy(budget=Ratio(floor_per_s=0.0, burst=5.0)))
    for _ in range(100):
        await done(transport, asking.get("/"), 1)
    assert len(transport.asked) <= 100 * 1.2 + 5


async def test_an_unknown_service_is_named_with_the_remedy() -> None:
    asking, transport = client(lambda *_: OK, RouteTable(version=1, services=()))
    with pytest.raises(Unavailable, match=r"no instance of 'stock' could answer: discovery knows(.|\n)*gapless status"):
        await done(transport, asking.get("/", deadline_s=1))


async def test_a_cancelled_call_leaves_nothing_behind() -> None:
    asking, transport = client(lambda *_: 99.0)
    task = asyncio.ensure_future(asking.get("/"))
    await transport.world.advance(1)
    task.cancel()
    await asyncio.wait({task})
    loads = [asking._callee._loads.of(Address(host="h", port=port)) for port in (1, 2)]
    assert [load.in_flight for load in loads if load] == [0, 0]
    assert not any(load.failures for load in loads if load)
    assert transport.world.pending == 0


async def test_static_endpoints_need_no_control_plane() -> None:
    world = FakeWorld()
    transport = FakeTransport(world, lambda *_: OK)
    async with Client("stock", endpoints=["127.0.0.1:9001", "[::1]:9002"], world=world, transport=transport) as asking:
        assert (await asking.get("/")).json() == {"ok": True}
    with pytest.raises(ValueError, match="is not host:port"):
        Client("stock", endpoints=["nowhere"])


@settings(deadline=None)
@given(st.lists(st.sampled_from("123"), max_size=6), st.sampled_from("123"))
def test_each_endpoint_is_in_exactly_one_pool(releases: list[str], wanted: str) -> None:
    known = table(*(endpoint(port, release) for port, release in enumerate(releases))).services[0]
    ordered = [each for pool in pools(known, wanted) for each in pool]
    assert sorted(each.instance for each in ordered) == sorted(each.instance for each in known.endpoints)
    if wanted in releases:
        assert ordered[0].release == wanted
    elif "1" in releases:
        assert ordered[0].release == "1"


def test_bodies_and_headers() -> None:
    assert (body_of(None, None), body_of(None, b"x"), body_of({"a": 1}, None)) == (b"", b"x", b'{"a":1}')
    with pytest.raises(TypeError, match="not both"):
        body_of({}, b"")
    assert joined([(b"A", b"1"), (b"a", b"2")]) == {"a": "1, 2"}

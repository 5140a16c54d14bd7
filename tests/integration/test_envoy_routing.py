"""Which release answers whom, and what Envoy adds, removes and cuts off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gapless.core.errors import TrafficRefused
from gapless.core.events import GatewayRefused
from gapless.core.model import PathKind, Route, SplitBy, bucket_of
from gapless.gateway.envoy import routes
from tests.integration.envoy_kit import HOST, Client, Reply, Rig, Upstream, ask, running, service, table

pytestmark = pytest.mark.asyncio(loop_scope="module")

USERS = [f"user-{i}" for i in range(2_000)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


async def pair(rig: Rig) -> tuple[Upstream, Upstream]:
    """An instance of release 1 and one of release 2."""
    return await rig.upstream("old"), await rig.upstream("new")


async def releases(rig: Rig, users: list[str], clients: int = 8) -> dict[str, str]:
    """user → the release that answered, over a few keep-alive connections."""

    async def some(part: list[str]) -> dict[str, str]:
        client = Client(rig.port)
        try:
            return {u: (await client.ask("/orders", headers={"x-user-id": u})).release for u in part}
        finally:
            await client.close()

    found: dict[str, str] = {}
    for part in await asyncio.gather(*(some(users[i::clients]) for i in range(clients))):
        found |= part
    return found


async def test_two_thousand_users_meet_the_release_that_was_predicted(rig: Rig) -> None:
    old, new = await pair(rig)
    for salt in ("orders-7", r"odd \1 salt:x"):
        found = service([old.endpoint("1"), new.endpoint("2")], canary=2_500, salt=salt)
        await rig.traffic.apply(table(found))
        users = USERS if salt == "orders-7" else USERS[:200]
        predicted = {user: found.split.release_of(bucket_of(user, salt)) for user in users}
        assert await releases(rig, users) == predicted


async def test_steps_only_add_users(rig: Rig) -> None:
    old, new = await pair(rig)
    before: set[str] = set()
    for share in (500, 2_500, 5_000):
        await rig.traffic.apply(table(service([old.endpoint("1"), new.endpoint("2")], canary=share)))
        found = await releases(rig, USERS[:400])
        now = {user for user, release in found.items() if release == "2"}
        assert before < now
        before = now


async def test_an_unknown_visitor_keeps_the_release_of_the_first_answer(rig: Rig) -> None:
    old, new = await pair(rig)
    await rig.traffic.apply(table(service([old.endpoint("1"), new.endpoint("2")], canary=5_000)))
    met = set()
    for _ in range(24):
        first = await ask(rig.port, "/orders", headers={"cookie": "theme=dark"})
        cookie = first.headers["set-cookie"]
        assert "HttpOnly" in cookie
        again = {"cookie": f"theme=dark; {cookie.partition(';')[0]}; lang=de"}
        later = [await ask(rig.port, "/orders", headers=again) for _ in range(3)]
        assert {reply.release for reply in later} == {first.release}
        assert not any("set-cookie" in reply.headers for reply in later)
        met.add(first.release)
    assert met == {"1", "2"}


async def test_no_cookie_is_set_while_there_is_nothing_to_remember(rig: Rig) -> None:
    old, new = await pair(rig)
    for found in (
        service([old.endpoint("1")]),
        service([old.endpoint("1"), new.endpoint("2")], canary=5_000, by=SplitBy.REQUEST),
    ):
        await rig.traffic.apply(table(found))
        assert "set-cookie" not in (await ask(rig.port, "/orders")).headers


async def test_overrides_beat_the_split_and_each_other(rig: Rig) -> None:
    old, new = await pair(rig)
    await rig.traffic.apply(table(service([old.endpoint("1"), new.endpoint("2")], canary=10_000)))
    asked = {
        "": "2",
        "gapless-release=1": "1",
        "a=b;gapless-release=1": "1",
        "gapless-release=11": "2",
        "x-gapless-release=1": "2",
    }
    for cookie, release in asked.items():
        reply = await ask(rig.port, "/orders", headers={"x-user-id": "u", "cookie": cookie})
        assert (cookie, reply.release) == (cookie, release)
    both = {"x-gapless-release": "2", "cookie": "gapless-release=1"}
    assert (await ask(rig.port, "/orders", headers=both)).release == "2"


async def test_even_the_gateways_own_errors_name_the_release(rig: Rig) -> None:
    gone = await rig.upstream("gone")
    endpoint = gone.endpoint("1")
    await gone.stop()
    rig.upstreams.clear()
    await rig.traffic.apply(table(service([endpoint], name="gone"), service([], name="none")))
    for path in ("/gone", "/none"):
        reply = await ask(rig.port, path)
        assert (reply.status, reply.release) == (503, "1")


async def test_a_path_that_nobody_serves_says_what_to_do(rig: Rig) -> None:
    reply = await ask(rig.port, "/nowhere")
    assert reply.status == 404
    assert b"gapless.yaml" in reply.body


async def test_clients_cannot_steer_the_gateway(rig: Rig) -> None:
    (old,) = [await rig.upstream("old")]
    await rig.traffic.apply(table(service([old.endpoint()], timeout_s=3)))
    steering = {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "3", "x-gapless-deadline-ms": "99999999"}
    reply = await ask(rig.port, "/orders?status=500", headers=steering)
    assert reply.status == 500
    assert len(old.seen) == 1
    headers = old.seen[0][2]
    assert headers["x-gapless-deadline-ms"] == "3000"
    assert not any(name.startswith("x-envoy-retry") for name in headers)
    assert "x-envoy-upstream-service-time" not in reply.headers


async def test_the_callers_request_id_stays(rig: Rig) -> None:
    old = await rig.upstream("old")
    await rig.traffic.apply(table(service([old.endpoint()])))
    await ask(rig.port, "/orders", headers={"x-request-id": "mine-1"})
    await ask(rig.port, "/orders")
    assert old.seen[0][2]["x-request-id"] == "mine-1"
    assert len(old.seen[1][2]["x-request-id"]) == 36


async def test_each_service_has_its_own_time(rig: Rig) -> None:
    old = await rig.upstream("old")
    slow = service([old.endpoint()], name="slow", timeout_s=5)
    await rig.traffic.apply(table(service([old.endpoint()], timeout_s=0.2), slow))
    assert (await ask(rig.port, "/orders?wait=1")).status == 504
    assert (await ask(rig.port, "/slow?wait=0.5")).status == 200


async def test_websockets_outlive_the_time_of_a_request(rig: Rig) -> None:
    old = await rig.upstream("old")
    await rig.traffic.apply(table(service([old.endpoint()], timeout_s=0.3)))
    reader, writer = await asyncio.open_connection(HOST, rig.port)
    try:
        writer.write(b"GET /orders HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        await asyncio.sleep(0.6)
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("others", [0, 100], ids=["short", "longer than Envoy's limit"])
async def test_a_refusal_comes_in_envoys_words_and_changes_nothing(rig: Rig, others: int) -> None:
    old, new = await pair(rig)
    good = service([old.endpoint()])
    await rig.traffic.apply(table(good))
    bad = service([new.endpoint("2")], name="bad", routes=[Route(path="/bad", host="")])
    many = [service([new.endpoint("2")], name=f"s{i}") for i in range(others)]
    with pytest.raises(TrafficRefused, match=r"Envoy refuses.*VirtualHostValidationError") as caught:
        await rig.traffic.apply(table(service([new.endpoint("2")], canary=10_000), bad, *many))
    assert len(caught.value.what) < 500
    assert (await ask(rig.port, "/orders")).body == b"old"
    await rig.traffic.apply(table(service([new.endpoint("2")], canary=10_000), version=3))
    assert (await ask(rig.port, "/orders")).body == b"new"
    assert not [event for event in rig.events if isinstance(event, GatewayRefused)], "whoever applies reports it"


async def test_a_refusal_names_the_route_that_it_is_about(rig: Rig) -> None:
    """What the file's own check would have refused before; here nobody has asked it."""
    old = await rig.upstream("old")
    good = Route(path="/orders")
    bad = Route(path="/x(", path_kind=PathKind.REGEX, methods=("GET",))
    await rig.traffic.apply(table(service([old.endpoint()], routes=[good])))
    with pytest.raises(TrafficRefused, match=r"missing \): /x\(; it is about GET \*~/x\( of orders$"):
        await rig.traffic.apply(table(service([old.endpoint()], routes=[good, bad, Route(path="/else")])))
    assert (await ask(rig.port, "/orders")).body == b"old"
    assert (await ask(rig.port, "/else")).status == 404


async def test_a_route_to_a_cluster_that_is_not_there_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall: by itself Envoy takes it, and answers 503."""
    old = await rig.upstream("old")
    await rig.traffic.apply(table(service([old.endpoint()])))
    part = routes._part
    monkeypatch.setattr(routes, "_part", lambda service, *more: part(f"{service}-gone", *more))
    monkeypatch.setattr(routes, "_service_routes", routes._service_routes.__wrapped__)  # not to be remembered
    with pytest.raises(TrafficRefused, match=r"unknown .*cluster '?orders-gone@1"):
        await rig.traffic.apply(table(service([old.endpoint()], timeout_s=1.5)))
    assert (await ask(rig.port, "/orders")).body == b"old"


async def test_the_same_release_twice_in_a_split_is_no_problem(rig: Rig) -> None:
    """Stable before the newcomer leaves the stable release at both ends of the buckets."""
    old, new = await pair(rig)
    found = service([old.endpoint("1"), new.endpoint("2")], canary=0)
    split = found.split.__class__(service="orders", stable="1", weights=(("1", 3_000), ("2", 3_000)), salt="s")
    found = found.__class__(service="orders", split=split, endpoints=found.endpoints, routes=found.routes)
    await rig.traffic.apply(table(found))
    predicted = {user: split.release_of(bucket_of(user, "s")) for user in USERS[:100]}
    assert await releases(rig, USERS[:100]) == predicted


async def test_a_split_by_request_does_not_stick(rig: Rig) -> None:
    old, new = await pair(rig)
    found = service([old.endpoint("1"), new.endpoint("2")], canary=5_000, by=SplitBy.REQUEST)
    await rig.traffic.apply(table(found))
    replies: list[Reply] = [await ask(rig.port, "/orders", headers={"x-user-id": "u"}) for _ in range(40)]
    assert {reply.release for reply in replies} == {"1", "2"}

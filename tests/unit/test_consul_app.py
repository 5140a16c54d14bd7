"""The way of a request through Consul's API, without anything behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.api.consul.answer import Answer, Refusal, told
from gapless.api.consul.app import BODY_BYTES, ConsulApi
from gapless.api.consul.bodies import BadBody, Body, read_body
from gapless.api.consul.request import Request
from gapless.api.consul.router import Route, Router
from gapless.api.consul.watches import Watches, WatchLimits
from gapless.core.errors import StoreClosed, StoreFull
from gapless.discovery.topics import Topics
from gapless.testing import FakeWorld
from tests.unit.consul_kit import Client, settled

DEFAULT = WatchLimits()


class Echo:
    """One endpoint of each kind. A watch of it is over when its topic has moved."""

    def __init__(self, limits: WatchLimits = DEFAULT) -> None:
        self.world = FakeWorld()
        self.watches = Watches(self.world, limits)
        self.topics = Topics()
        self.topics.move("it", 7)

    def routes(self) -> Iterable[Route]:
        yield Route("/v1/echo", {"GET": self.get, "PUT": self.put})
        yield Route("/v1/echo/", {"GET": self.get})
        yield Route("/v1/agent/echo", {"GET": self.get})
        yield Route("/v1/fail", {"GET": self.fail})

    async def get(self, request: Request) -> Answer:
        await self.watches.until(request, self.topics, "it")
        return told({"rest": request.rest, "flag": request.true("flag")}, self.topics.index("it"))

    async def put(self, request: Request) -> Answer:
        return Answer(b"%d" % len(request.body))

    async def fail(self, request: Request) -> Answer:
        raise {"full": StoreFull, "closed": StoreClosed}.get(request.text("how"), RuntimeError)


def client(echo: Echo | None = None, token: str = "", address: str = "127.0.0.1") -> Client:
    return Client(ConsulApi((echo or Echo()).routes(), token=token), address)


@pytest.mark.parametrize(
    ("method", "target", "status", "text"),
    [
        ("GET", "/v1/nothing", 404, "Invalid URL path: not a recognized HTTP API endpoint"),
        ("POST", "/v1/echo", 405, "method POST not allowed"),
        ("GET", "/v1/echo?index=x", 400, "Invalid index"),
        ("GET", "/v1/echo?index=-1", 400, "Invalid index"),
        ("GET", f"/v1/echo?index={2**64}", 400, "Invalid index"),
        ("GET", "/v1/echo?index=1&wait=soon", 400, "Invalid wait time"),
        (
            "GET",
            "/v1/echo?stale&consistent=",
            400,
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        ("GET", "/v1/echo?dc=dc2", 500, "No path to datacenter"),
        ("GET", "/v1/echo?flag=maybe", 400, "Invalid value for ?flag"),
        ("GET", "/v1/echo/%ff", 400, "the path is not UTF-8"),
        ("GET", "/v1/echo?a=%ff", 400, "the query is not UTF-8"),
    ],
)
async def test_statuses_and_texts(method: str, target: str, status: int, text: str) -> None:
    response = await client().ask(method, target)
    assert (response.status, response.text) == (status, text)
    assert "x-consul-index" not in response.headers


async def test_headers_of_an_indexed_read() -> None:
    response = await client().get("/v1/echo")
    assert response.headers == {
        "content-type": "application/json",
        "x-consul-index": "7",
        "x-consul-knownleader": "true",
        "x-consul-lastcontact": "0",
    }


async def test_methods_are_told() -> None:
    refused = await client().ask("POST", "/v1/echo")
    assert refused.headers["allow"] == "OPTIONS,GET,PUT"
    options = await client().ask("OPTIONS", "/v1/echo")
    assert (options.status, options.body, options.headers["allow"]) == (200, b"", "OPTIONS,GET,PUT")


async def test_head_is_get_without_its_body() -> None:
    response = await client().ask("HEAD", "/v1/echo")
    assert (response.status, response.body) == (200, b"")
    assert response.headers["content-length"] == str(len((await client().get("/v1/echo")).body))


@pytest.mark.parametrize("flag", ["flag", "flag=", "flag=1", "flag=true"])
async def test_flags(flag: str) -> None:
    assert (await client().get(f"/v1/echo?{flag}")).json["flag"] is True
    assert (await client().get("/v1/echo?flag=false")).json["flag"] is False


async def test_the_rest_of_a_path_is_decoded_and_may_have_slashes() -> None:
    assert (await client().get("/v1/echo/a%2Fb/%C3%A7%20")).json["rest"] == "a/b/ç "
    assert (await client().get("/v1/echo/")).json["rest"] == ""


async def test_pretty() -> None:
    response = await client().get("/v1/echo?pretty")
    assert response.text.startswith('{\n    "rest"')
    assert response.text.endswith("}\n")


async def test_a_datacenter_means_nothing_to_the_agent() -> None:
    assert (await client().get("/v1/agent/echo?dc=elsewhere")).status == 200
    assert (await client().get("/v1/echo?dc=dc1")).status == 200


async def test_a_body_over_the_limit_is_not_read() -> None:
    refused = await client().put("/v1/echo", b"", content_length=str(BODY_BYTES + 1))
    assert (refused.status, refused.text) == (
        413,
        "Request body(524289 bytes) too large, max size: 524288 bytes.",
    )
    assert (await client().put("/v1/echo", b"x" * BODY_BYTES)).body == b"%d" % BODY_BYTES


async def test_failures_of_the_store_and_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    assert (await client().get("/v1/fail?how=full")).status == 500
    assert (await client().get("/v1/fail?how=closed")).status == 503
    assert (await client().get("/v1/fail")).text == "internal error: the log of the registry tells more"
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize("headers", [{}, {"x_consul_token": "any"}, {"authorization": "Basic Og=="}])
async def test_tokens_are_ignored_where_none_is_asked_for(headers: dict[str, str]) -> None:
    assert (await client().get("/v1/echo?token=any", **headers)).status == 200


async def test_a_token_in_each_of_its_forms() -> None:
    guarded = client(token="geheim")
    assert (await guarded.get("/v1/echo?token=geheim")).status == 200
    assert (await guarded.get("/v1/echo", x_consul_token="geheim")).status == 200
    assert (await guarded.get("/v1/echo", authorization="Bearer geheim")).status == 200
    for headers in ({}, {"authorization": "Basic Og=="}, {"x_consul_token": "gehei"}):
        refused = await guarded.get("/v1/echo", **headers)
        assert (refused.status, refused.text) == (403, "Permission denied")


# Blocking queries.


async def test_a_watch_waits_for_its_topic() -> None:
    echo = Echo()
    watch = asyncio.create_task(client(echo).get("/v1/echo?index=7"))
    await settled()
    assert echo.watches.waiting == 1
    echo.topics.move("other", 8)
    await settled()
    assert not watch.done()
    echo.topics.move("it", 9)
    assert (await watch).index == 9
    assert (echo.watches.waiting, echo.topics.waiting) == (0, 0)


@pytest.mark.parametrize("query", ["", "?index=0", "?index=6&wait=10s", "?wait=10s"])
async def test_what_is_newer_is_told_at_once(query: str) -> None:
    assert (await client().get(f"/v1/echo{query}")).index == 7


@pytest.mark.parametrize(("wait", "seconds"), [("", 300), ("&wait=10s", 10), ("&wait=2h", 600), ("&wait=0s", 300)])
async def test_a_watch_ends_after_its_wait_and_at_most_a_sixteenth_more(wait: str, seconds: float) -> None:
    echo = Echo()
    watch = asyncio.create_task(client(echo).get(f"/v1/echo?index=7{wait}"))
    await settled()
    await echo.world.advance(seconds - 0.01)
    assert not watch.done()
    await echo.world.advance(seconds / 16 + 0.02)
    await settled()
    assert watch.done()
    assert (await watch).index == 7


async def test_a_watch_by_head() -> None:
    echo = Echo()
    watch = asyncio.create_task(client(echo).ask("HEAD", "/v1/echo?index=7"))
    await settled()
    assert not watch.done()
    echo.topics.move("it", 8)
    assert (await watch).index == 8


async def test_a_watch_ends_with_its_client() -> None:
    echo = Echo()
    one = client(echo)
    watch = asyncio.create_task(one.get("/v1/echo?index=7"))
    await settled()
    one.left.set()
    assert (await watch).status == 0
    assert echo.watches.waiting == 0


async def test_who_ends_a_request_that_waits_is_obeyed() -> None:
    echo = Echo()
    watch = asyncio.create_task(client(echo).get("/v1/echo?index=7"))
    await settled()
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch
    assert (echo.watches.waiting, echo.topics.waiting) == (0, 0)


@pytest.mark.parametrize("first", ["topic", "client", "cancel"])
async def test_whatever_ends_a_watch_at_the_same_moment_as_something_else(first: str) -> None:
    echo = Echo()
    one = client(echo)
    watch = asyncio.create_task(one.get("/v1/echo?index=7"))
    await settled()
    acts = {"topic": lambda: echo.topics.move("it", 9), "client": one.left.set, "cancel": watch.cancel}
    acts.pop(first)()
    for act in acts.values():
        act()
    with pytest.raises(asyncio.CancelledError):
        await watch
    assert (echo.watches.waiting, echo.topics.waiting) == (0, 0)


@pytest.mark.parametrize("first", ["topic", "client"])
async def test_a_topic_moves_when_its_client_goes(first: str) -> None:
    echo = Echo()
    one = client(echo)

    async def after_it() -> None:
        response = await one.get("/v1/echo?index=7")
        assert response.status in (0, 200)
        await asyncio.sleep(0)  # an interruption that comes too late would end this
        await asyncio.sleep(0)

    watch = asyncio.create_task(after_it())
    await settled()
    acts = [lambda: echo.topics.move("it", 9), one.left.set]
    for act in acts if first == "topic" else reversed(acts):
        act()
    await watch
    assert (echo.watches.waiting, echo.topics.waiting) == (0, 0)


async def test_too_many_watches() -> None:
    echo = Echo(WatchLimits(per_client=2, in_all=3))
    first = [asyncio.create_task(client(echo).get("/v1/echo?index=7")) for _ in range(2)]
    await settled()
    assert (await client(echo).get("/v1/echo?index=7")).status == 429
    other = asyncio.create_task(client(echo, address="10.0.0.1").get("/v1/echo?index=7"))
    await settled()
    refused = await client(echo, address="10.0.0.2").get("/v1/echo?index=7")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert (await client(echo).get("/v1/echo")).status == 200
    echo.watches.release()
    assert [(await watch).status for watch in (*first, other)] == [200, 200, 200]
    assert (await client(echo).get("/v1/echo?index=7")).status == 200


# Routes.


@given(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=5))
def test_the_longest_prefix_wins(segments: list[str]) -> None:
    routes = [Route(path, {}) for path in ("/a", "/a/", "/a/b", "/a/b/", "/b/c/a/")]
    path = "/" + "/".join(segments)
    found = Router(routes).find(path)
    fitting = [
        route.path for route in routes if path == route.path or (route.path[-1] == "/" and path.startswith(route.path))
    ]
    exact = [one for one in fitting if one == path and not one.endswith("/")]
    expected = exact[0] if exact else max(fitting, key=len, default=None)
    assert (found and found[0].path) == expected
    assert found is None or found[0].path + found[1] == path


def test_two_routes_of_one_path_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="/a"):
        Router([Route("/a", {}), Route("/a", {})])


# Bodies.


class Inner(Body):
    http: str = ""
    tags: list[str] = msgspec.field(default_factory=list)


class Outer(Body):
    service_id: str = msgspec.field(default="", name="ServiceID")
    port: int = 0
    meta: dict[str, str] = msgspec.field(default_factory=dict)
    check: Inner | None = None
    checks: list[Inner] = msgspec.field(default_factory=list)


@pytest.mark.parametrize(
    "data",
    [
        b'{"ServiceID":"a","Port":1,"Meta":{"Some_Key":"v"},"Check":{"HTTP":"u"},"Checks":[{"Tags":["t"]}]}',
        b'{"serviceid":"a","PORT":1,"meta":{"Some_Key":"v"},"check":{"http":"u"},"checks":[{"tags":["t"]}]}',
        b'{"service_id":"a","port":1,"Meta":{"Some_Key":"v"},"check":{"Http":"u"},"CHECKS":[{"tags":["t"]}],"x":1}',
        b'{"service_id":"a","port":1,"Meta":{"Some_Key":"v"},"check":{"Http":"u","Tags":null},"CHECKS":[{"tags":["t"]}]}',
    ],
)
def test_keys_in_any_case(data: bytes) -> None:
    body = read_body(data, Outer)
    assert body == Outer(
        service_id="a", port=1, meta={"Some_Key": "v"}, check=Inner(http="u"), checks=[Inner(tags=["t"])]
    )


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"Port":"x"}', b'{"Check":{"tags":1}}', b"[" * 100_000])
def test_what_is_no_such_body(data: bytes) -> None:
    with pytest.raises(BadBody):
        read_body(data, Outer)


def test_a_refusal_says_its_text() -> None:
    assert str(Refusal(400, "no")) == "no"

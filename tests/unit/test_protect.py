"""The guard before an ASGI app: who is refused, what he is told, and that no permit is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gapless.core.errors import ConfigError
from gapless.resilience.breaker import breaker
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import BreakerOpen, DeadlineExceeded, Overloaded, RateLimited, Rejected
from gapless.resilience.guard import Guard, guard
from gapless.resilience.limit import limit
from gapless.resilience.rate import rate
from gapless.resilience.retry_layer import retry
from gapless.service.asgi import App, Message, Receive, Scope, Send
from gapless.service.protect import Protected, address_of, user_of
from gapless.service.protect_problem import Problem
from gapless.testing import FakeWorld


class Client:
    """Sends one request; keeps what came back. `leave` makes it disconnect."""

    def __init__(self, app: App, path: str = "/", client: str = "10.0.0.1", **headers: str) -> None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: Scope = {
            "type": "http", "method": "GET", "path": path, "headers": named, "client": (client, 5000),
        }  # fmt: skip
        self.app = app
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def ask(self) -> Client:
        await self.app(self.scope, self.receive, self.send)
        return self

    def leave(self) -> None:
        self.left.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"]) if self.sent else 0

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> Any:
        return json.loads(self.sent[1]["body"])


async def answer(send: Send, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def app_of(status: int = 200) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, status)

    return app


def waiting(release: asyncio.Event) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await answer(send)

    return app


def busy(found: Guard) -> int:
    return int(found.statistics()["policies"]["limit"]["busy"])


async def test_a_rate_refuses_with_429_and_says_when_to_come_back() -> None:
    world = FakeWorld()
    app = Protected(app_of(), guard("orders", rate("2/10s"), world=world))
    assert [(await Client(app).ask()).status for _ in range(3)] == [200, 200, 429]
    refused = await Client(app).ask()
    assert refused.headers[b"content-type"] == b"application/problem+json"
    assert refused.headers[b"retry-after"] == b"5"
    assert int(refused.headers[b"content-length"]) == len(refused.sent[1]["body"])
    assert refused.body == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": refused.body["detail"],
        "policy": "rate",
    }
    await world.advance(5)
    assert (await Client(app).ask()).status == 200


async def test_each_principal_has_a_rate_of_its_own() -> None:
    app = Protected(app_of(), guard("orders", rate("1/s", key="{user}"), world=FakeWorld()))

    async def ask(**who: str) -> int:
        return (await Client(app, **who).ask()).status

    assert [await ask(x_user_id="ada"), await ask(x_user_id="bob"), await ask(x_user_id="ada")] == [200, 200, 429]
    assert [await ask(client="1.2.3.4"), await ask(client="1.2.3.5"), await ask(client="1.2.3.4")] == [200, 200, 429]


async def test_a_key_function_decides_who_asks() -> None:
    policy = rate("1/s", key="{user}")
    app = Protected(app_of(), guard("orders", policy, world=FakeWorld()), principal=lambda scope: scope["path"][:2])
    assert [(await Client(app, path).ask()).status for path in ("/a1", "/b1", "/a2")] == [200, 200, 429]


def test_behind_a_gateway_on_this_machine_the_address_is_the_one_it_has_added() -> None:
    def scope(client: str, forwarded: str = "") -> Scope:
        return Client(app_of(), client=client, **({"x_forwarded_for": forwarded} if forwarded else {})).scope

    assert address_of(scope("10.0.0.9", "6.6.6.6")) == "10.0.0.9"
    assert address_of(scope("127.0.0.1", "6.6.6.6, 10.0.0.7")) == "10.0.0.7"
    assert address_of(scope("127.0.0.1")) == "127.0.0.1"
    assert address_of({**scope("x"), "client": None}) == ""
    assert user_of(scope("10.0.0.9")) == "10.0.0.9"


async def test_routes_have_guards_of_their_own_and_the_rest_passes() -> None:
    world = FakeWorld()
    app = Protected(
        app_of(),
        {"/search": guard("search", rate("1/s"), world=world), "/search/deep": guard("deep", rate("1/s"), world=world)},
    )
    paths = ["/search", "/search/deep", "/search/x", "/search/deep/y", "/searching", "/"]
    assert [(await Client(app, path).ask()).status for path in paths] == [200, 200, 429, 429, 200, 200]


async def test_hosts_tell_routes_apart() -> None:
    world = FakeWorld()
    pairs = [
        (("*.example", "/"), guard("any", rate("1/s"), world=world)),
        (("shop.example", "/"), guard("shop", rate("2/s"), world=world)),
    ]
    app = Protected(app_of(), pairs)
    hosts = ["shop.example:8080", "shop.example", "Shop.Example", "a.example", "b.example", "other"]
    assert [(await Client(app, host=host).ask()).status for host in hosts] == [200, 200, 429, 200, 429, 200]


async def test_a_limit_holds_its_place_until_the_answer_has_ended() -> None:
    release = asyncio.Event()
    found = guard("orders", limit(1), world=FakeWorld())
    app = Protected(waiting(release), found)
    first = asyncio.create_task(Client(app).ask())
    await asyncio.sleep(0)
    second = await Client(app).ask()
    assert (second.status, second.body["policy"]) == (503, "limit")
    assert int(second.headers[b"retry-after"]) >= 1
    release.set()
    assert (await first).status == 200
    assert busy(found) == 0


@pytest.mark.parametrize("listens", [False, True])
async def test_a_client_that_leaves_gives_its_place_back(listens: bool) -> None:
    """Also when the app streams for ever and never listens."""
    world = FakeWorld()
    found = guard("orders", limit(1), world=world)

    async def listen(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        listener = asyncio.create_task(listen(receive)) if listens else None
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while listener is None or not listener.done():
            await send({"type": "http.response.body", "body": b"tick", "more_body": True})
            await world.sleep(1)

    client = Client(Protected(stream, found))
    task = asyncio.create_task(client.ask())
    await world.advance(5)
    assert (busy(found), task.done()) == (1, False)
    client.leave()
    await world.advance(2)
    assert (busy(found), task.done()) == (0, True)
    await task
    assert found.statistics()["failed"] == 0


async def test_a_streaming_app_can_still_read_its_request() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.sleep(0)
        message = await receive()
        assert message["type"] == "http.request"
        await send({"type": "http.response.body", "body": message["body"]})

    client = Client(Protected(echo, guard("orders", world=FakeWorld())))
    assert len((await client.ask()).sent) == 3


async def test_a_cancelled_request_gives_its_place_back_at_every_await() -> None:
    for steps in range(6):
        world, release = FakeWorld(), asyncio.Event()
        found = guard("orders", deadline(5), limit(1, queue=1), world=world)
        app = Protected(waiting(release), found)
        tasks = [asyncio.create_task(Client(app).ask()) for _ in range(2)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert busy(found) == 0, steps
        release.set()
        assert (await Client(app).ask()).status == 200


async def test_answers_of_5xx_and_exceptions_open_the_breaker() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/raise":
            raise RuntimeError("no")
        await answer(send, 500 if scope["path"] == "/500" else 404)

    app = Protected(broken, guard("orders", breaker(rate=0.5, window=10, minimum=4, open_for=9), world=FakeWorld()))
    assert [(await Client(app, "/404").ask()).status for _ in range(2)] == [404, 404]
    assert (await Client(app, "/500").ask()).status == 500
    with pytest.raises(RuntimeError):
        await Client(app, "/raise").ask()
    refused = await Client(app, "/404").ask()
    assert (refused.status, refused.body["policy"]) == (503, "breaker")
    assert 1 <= int(refused.headers[b"retry-after"]) <= 9


async def test_after_the_deadline_it_is_504_unless_an_answer_has_begun() -> None:
    world = FakeWorld()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await world.sleep(10)

    app = Protected(slow, guard("orders", deadline(2), world=world))
    late, begun = Client(app), Client(app, "/begun")
    tasks = [asyncio.create_task(client.ask()) for client in (late, begun)]
    await world.advance(3)
    assert (await tasks[0]).status == 504
    assert late.body["policy"] == "deadline"
    with pytest.raises(DeadlineExceeded):
        await tasks[1]
    assert begun.status == 200


async def test_what_a_deeper_guard_refused_is_not_the_caller_s_fault() -> None:
    inner = guard("payments", rate("0/s"), world=FakeWorld())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with inner.enter():
            await answer(send)

    client = await Client(Protected(app, guard("orders", world=FakeWorld()))).ask()
    assert (client.status, client.body["policy"]) == (503, "rate")


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (RateLimited(policy="rate", retry_after_s=0.2), 429, 1),
        (RateLimited(policy="rate", retry_after_s=7.01), 429, 8),
        (RateLimited(policy="rate", retry_after_s=float("inf")), 429, 1),
        (BreakerOpen(policy="breaker"), 503, 1),
        (Overloaded(policy="limit", retry_after_s=2), 503, 2),
        (DeadlineExceeded(), 504, None),
    ],
)
def test_statuses(error: Rejected, status: int, retry_after: int | None) -> None:
    problem = Problem.of(error)
    assert (problem.status, problem.retry_after_s) == (status, retry_after)


@pytest.mark.parametrize("make", [lambda: retry(idempotent=True)], ids=["retry"])
def test_what_would_ask_the_app_twice_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="cannot stand before an app"):
        Protected(app_of(), guard("orders", make()))


async def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    protected = Protected(app, guard("orders", rate("0/s"), world=FakeWorld()))
    client = Client(protected)
    for kind in ("lifespan", "websocket"):
        await protected({"type": kind, "path": "/", "headers": []}, client.receive, client.send)
    assert seen == ["lifespan", "websocket"]

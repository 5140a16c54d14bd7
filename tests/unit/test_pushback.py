"""What was asked again in vain is told to whoever called, and not asked again there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import Unavailable
from gapless.resilience import pushback
from gapless.resilience.budget import ratio
from gapless.resilience.errors import Transient
from gapless.resilience.retry import RetryPolicy
from gapless.resilience.retry_layer import retry
from gapless.service.client import Client
from gapless.service.grpc_calls import Call, _InThread
from gapless.service.transport import Broken, Response, Unsent
from gapless.testing import FakeWorld
from tests.unit.guard_kit import Script, guarded, outcome
from tests.unit.test_client import OK, answer, client, done
from tests.unit.test_kit import ask, service

NONE = ratio(0.0, floor_per_s=0.0, burst=0.0)
FINAL = answer(503, x_gapless_retried="1")


class Told:
    """A request that is being served."""

    def __init__(self) -> None:
        self.times = 0
        self.headers: dict[bytes, bytes] = {}

    def retries_spent(self) -> None:
        self.times += 1


@pytest.fixture
def told() -> Iterator[Told]:
    found = Told()
    before = pushback.served.set(found)
    yield found
    pushback.served.reset(before)


class Failed(Transient):
    def __init__(self, response: Any = None, trailing: Any = ()) -> None:
        super().__init__("it failed")
        self.response, self.trailing = response, trailing

    def trailing_metadata(self) -> Any:
        return self.trailing


# The guard's retry


@pytest.mark.parametrize("budget", [ratio(1.0), NONE])
async def test_retries_that_are_used_up_or_refused_are_told(told: Told, budget: Any) -> None:
    world = FakeWorld()
    shop = guarded(world, retry(budget=budget))
    assert isinstance(await outcome(world, shop(Script(world, Transient("x")).ask)()), Transient)
    assert told.times == 1
    with pytest.raises(Transient):
        shop(Script(world, Transient("x")).ask_sync)()
    assert told.times == 2


async def test_what_was_not_asked_again_or_went_well_is_not_told(told: Told) -> None:
    world = FakeWorld()
    await outcome(world, guarded(world, retry(attempts=1))(Script(world, Transient("x")).ask)())
    await outcome(world, guarded(world, retry())(Script(world, Transient("x"), "answer").ask)())
    await outcome(world, guarded(world, retry())(Script(world, TypeError("bug")).ask)())
    assert told.times == 0


@pytest.mark.parametrize(
    "final",
    [
        Failed(FINAL),
        Failed(trailing=(("grpc-retry-pushback-ms", "-1"),)),
        Failed(trailing=[("other", b"1"), ("grpc-retry-pushback-ms", b"soon")]),
    ],
)
async def test_a_final_failure_is_not_tried_again_and_passed_on(told: Told, final: Failed) -> None:
    world = FakeWorld()
    shop = guarded(world, retry())
    script = Script(world, final)
    assert await outcome(world, shop(script.ask)()) is final
    with pytest.raises(Failed):
        shop(script.ask_sync)()
    assert (script.calls, told.times) == (2, 2)
    assert shop.statistics()["policies"]["retry"]["spent_pushback"] == 2


@pytest.mark.parametrize("trailing", [None, (), (("grpc-retry-pushback-ms", "20"),), (("other", "-1"),)])
async def test_other_failures_are_tried_again(trailing: Any) -> None:
    world = FakeWorld()
    script = Script(world, Failed(trailing=trailing), "answer")
    assert await outcome(world, guarded(world, retry())(script.ask)()) == "answer"


async def test_a_bad_result_that_is_final_is_given_back(told: Told) -> None:
    world = FakeWorld()
    script = Script(world, FINAL, OK)
    shop = guarded(world, retry(result=lambda response: response.status == 503))
    assert await outcome(world, shop(script.ask)()) is FINAL
    assert told.times == 1


@given(st.text(max_size=6))
def test_only_a_count_of_milliseconds_asks_again(value: str) -> None:
    assert pushback.asks_not_again(value) != (value.isascii() and value.isdigit())


# The client, and a guard around it


def asked_by(asking: Client, method: str) -> Callable[[], Any]:
    async def work() -> None:
        response = await asking.request(method, "/")
        if response.status >= 500:
            raise Transient(f"it answered {response.status}")

    return work


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_final_answer_is_given_back_at_once(told: Told, status: int) -> None:
    asking, transport = client(lambda *_: answer(status, x_gapless_retried="1"))
    assert (await done(transport, asking.get("/"), 1)).status == status
    assert (len(transport.asked), told.times) == (1, 1)


async def test_a_good_answer_is_never_final(told: Told) -> None:
    asking, transport = client(lambda *_: answer(200, x_gapless_retried="1"))
    await done(transport, asking.get("/"), 1)
    assert told.times == 0


async def test_the_guard_around_a_client_knows_what_it_met_whatever_is_raised() -> None:
    for final, method, asked in ((True, "POST", 1), (False, "POST", 3), (False, "GET", 3)):
        replied = FINAL if final else answer(503)
        asking, transport = client(lambda *_, replied=replied: replied)
        shop = guarded(transport.world, retry(idempotent=True))
        assert isinstance(await outcome(transport.world, shop(asked_by(asking, method))()), Transient)
        assert len(transport.asked) == asked, "by the client or by the guard, and not by both"


async def test_what_another_call_met_is_not_held_against_this_one() -> None:
    asking, transport = client(lambda *_: FINAL)
    world = transport.world
    script = Script(world, Transient("x"), "answer")
    shop = guarded(world, retry(idempotent=True))

    async def work() -> Any:
        await asking.get("/")  # before it
        _, found = await asyncio.gather(asking.get("/"), shop(script.ask)())  # beside it
        return found

    assert await outcome(world, work()) == "answer"


@pytest.mark.parametrize("policy", [RetryPolicy(), RetryPolicy(budget=NONE)])
@pytest.mark.parametrize("reply", [answer(503), Broken("reset")])
async def test_a_client_tells_that_its_attempts_were_in_vain(told: Told, policy: RetryPolicy, reply: Any) -> None:
    asking, transport = client(lambda *_: reply, policy=policy)
    await asyncio.gather(done(transport, asking.get("/"), 5), return_exceptions=True)
    assert told.times == 1


async def test_a_client_that_reaches_nobody_tells_it_too_and_a_guard_here_may_go_on(told: Told) -> None:
    asking, transport = client(lambda *_: Unsent("refused"), policy=RetryPolicy(rounds=2))
    before = pushback.finals.get()
    with pytest.raises(Unavailable):
        await done(transport, asking.post("/"), 5)
    assert (told.times, pushback.finals.get()) == (1, before)


async def test_one_attempt_that_failed_is_not_told(told: Told) -> None:
    asking, transport = client(lambda *_: answer(503))
    await done(transport, asking.post("/"), 1)
    assert told.times == 0


# The answer to whoever called


def failing(status: int, *, spent: bool = True, raises: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if spent:
            await asyncio.create_task(asyncio.to_thread(pushback.spent))  # whoever works for the request
        if raises:
            raise RuntimeError("it failed")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize(
    ("status", "spent", "says"), [(503, True, True), (500, True, True), (200, True, False), (503, False, False)]
)
async def test_a_failing_answer_says_so(status: int, spent: bool, says: bool) -> None:
    made, _ = service(failing(status, spent=spent))
    _, headers, _ = await ask(made)
    assert ("x-gapless-retried" in headers) == says
    assert pushback.served.get() is None


async def test_an_app_that_raises_says_so_too() -> None:
    made, _ = service(failing(0, raises=True))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(RuntimeError):
        await made.app({"type": "http", "method": "GET", "path": "/", "headers": []}, None, send)
    assert sent[0]["status"] == 500
    assert (b"x-gapless-retried", b"1") in sent[0]["headers"]


class Context:
    """A gRPC context in a thread: it tells nothing of what is set."""

    def __init__(self) -> None:
        self.trailing: Any = None

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = metadata

    def set_code(self, code: Any) -> None: ...


@pytest.mark.parametrize(("code", "left"), [(None, ()), (14, (("grpc-retry-pushback-ms", "-1"),))])
def test_a_call_says_so_unless_it_is_answered(code: Any, left: Any) -> None:
    inner = Context()
    context = _InThread(inner)
    context.set_trailing_metadata([("mine", "1")])
    call = Call("/shop/Say", context, 0.0, {})
    call.retries_spent()
    call.retries_spent()
    assert inner.trailing == (("mine", "1"), ("grpc-retry-pushback-ms", "-1"))
    context.set_code(code)
    call.answered()
    assert inner.trailing == (("mine", "1"), *left)


def test_outside_of_a_request_nobody_is_told() -> None:
    pushback.spent()


def test_what_a_response_is() -> None:
    assert pushback.is_final(Response(status=503, headers={"x-gapless-retried": "1"}, content=b""))
    assert not pushback.is_final(None)

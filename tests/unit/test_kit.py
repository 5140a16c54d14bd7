"""The service kit: order of start-up and drain, limits, background work, the way of a request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gapless.core.errors import AppError, NotReady
from gapless.core.events import Event, Events, StageEnded
from gapless.discovery.directory import Directory, static
from gapless.observe import log
from gapless.resilience import deadline
from gapless.service import inbound
from gapless.service.identity import Identity
from gapless.service.kit import Service, StartLimits
from gapless.testing import FakeWorld

IDENTITY = Identity(service="orders", release="1.4.0", instance="orders-1")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"yes")]})
    await send({"type": "http.response.body", "body": b"hello"})


def service(app: Any = echo, **options: Any) -> tuple[Service, FakeWorld]:
    world = FakeWorld()
    return Service(app=app, identity=IDENTITY, world=world, **options), world


def scope(path: str = "/", method: str = "GET", **headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": pairs}


async def nothing() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def ask(made: Service, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request through the service: status, headers, body."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await made.app(scope(path, method, **headers), nothing, send)
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:])


async def passed(world: FakeWorld, work: Any, seconds: float = 0.0) -> Any:
    """The result of work that needs `seconds` of the world's time."""
    task = asyncio.ensure_future(work)
    await world.advance(seconds)
    assert task.done()
    return task.result()


def stages(events: list[Event]) -> list[tuple[str, bool]]:
    return [(event.name, event.ok) for event in events if isinstance(event, StageEnded)]


async def test_start_goes_in_order_and_close_in_reverse() -> None:
    done: list[str] = []
    seen: list[Event] = []
    made, world = service(settings=lambda: done.append("settings"), events=Events([seen.append]))

    @made.resource
    async def first() -> Any:
        done.append("open first")
        yield 1
        done.append("close first")

    @made.resource
    async def second() -> Any:
        done.append("open second")
        yield made.resources["first"] + 1
        done.append("close second")

    @made.warm_up
    async def warm() -> None:
        done.append(f"warm {made.resources['second']}")

    @made.check
    async def database() -> None:
        done.append("check")
        assert not made.ready

    await made.start(10)
    assert made.ready
    assert done == ["settings", "open first", "open second", "warm 2", "check"]
    assert await made.finish(5)
    assert not made.ready
    await made.close(5)
    assert done[5:] == ["close second", "close first"]
    names = ["settings", "resources", "warm-up", "checks", "finish", "close"]
    assert stages(seen) == [(name, True) for name in names]
    assert world.pending == 0


async def test_a_failing_resource_closes_those_already_open() -> None:
    closed: list[str] = []
    made, _ = service()

    @made.resource
    async def fine() -> Any:
        try:
            yield
        finally:
            closed.append("fine")

    @made.resource
    async def broken() -> Any:
        raise OSError("no route to database")
        yield

    with pytest.raises(AppError, match=r"'resources' failed:\n(.|\n)*no route to database"):
        await made.start(10)
    assert closed == ["fine"]
    assert made.health()["status"] == "stopped"


async def test_a_stage_over_its_limit_is_named() -> None:
    made, world = service(limits=StartLimits(warm_up_s=2))

    @made.warm_up
    async def slow() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NotReady, match=r"'warm-up' did not end: it took more than 2\.0 s"):
        await passed(world, made.start(10), 2)


async def test_a_stage_for_which_no_time_was_left_says_so() -> None:
    made, world = service()
    made.warm_up(asyncio.Event().wait)
    with pytest.raises(NotReady, match="'warm-up' did not end: what came before it took the whole start limit"):
        await passed(world, made.start(0), 0)


async def test_a_resource_that_hangs_while_opening_is_cancelled() -> None:
    cleaned: list[str] = []
    made, world = service()

    @made.resource
    async def hanging() -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("hanging")
        yield

    with pytest.raises(NotReady, match="'resources'"):
        await passed(world, made.start(3), 3)
    assert cleaned == ["hanging"]


async def test_checks_that_do_not_pass_name_themselves() -> None:
    made, world = service()

    @made.check
    async def ledger() -> bool:
        return False

    @made.check
    async def stock() -> None:
        raise ConnectionRefusedError("stock:5432")

    with pytest.raises(NotReady, match=r"'checks' did not end: .*stock: ConnectionRefusedError: stock:5432"):
        await passed(world, made.start(1), 1)
    assert world.pending == 0


async def test_a_dependency_that_comes_late_is_waited_for() -> None:
    made, world = service()

    @made.check
    async def late() -> bool:
        return world.now() >= 0.5

    await passed(world, made.start(5), 0.6)
    assert made.ready
    await passed(world, made.finish(1))


async def test_unready_is_told_while_requests_are_still_served() -> None:
    made, _ = service()
    await made.start(5)
    assert (await ask(made, "/readyz"))[0] == 200
    made.announce()
    assert (await ask(made, "/readyz"))[0] == 503
    assert (await ask(made, "/livez"))[0] == 200
    assert (await ask(made, "/startupz"))[0] == 200
    assert (await ask(made, "/healthz"))[0] == 200
    assert (await ask(made))[0] == 200


async def test_before_the_start_only_livez_passes() -> None:
    made, _ = service()
    assert [(await ask(made, path))[0] for path in ("/livez", "/startupz", "/readyz", "/healthz")] == [
        200,
        503,
        503,
        503,
    ]


async def test_probes_share_one_shape() -> None:
    made, world = service()

    @made.check(timeout_s=2)
    async def database() -> str:
        await world.sleep(0.25)
        return "3 connections"

    await passed(world, made.start(5), 0.25)
    status, headers, body = await ask(made, "/healthz")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {
        "status": "ready",
        "service": "orders",
        "release": "1.4.0",
        "instance": "orders-1",
        "checks": {
            "database": {
                "status": "pass",
                "latency_ms": 250.0,
                "since": "2023-11-14T22:13:20.250+00:00",
                "detail": "3 connections",
            }
        },
        "time": "2023-11-14T22:13:20.250+00:00",
    }


async def test_every_response_tells_who_answered() -> None:
    made, _ = service()
    _, headers, body = await ask(made)
    assert headers.pop("x-request-id")
    assert headers == {"x-app": "yes", "x-gapless-release": "1.4.0", "x-gapless-instance": "orders-1"}
    assert body == b"hello"
    assert (await ask(made, "/livez"))[1]["x-gapless-release"] == "1.4.0"


async def test_a_request_has_its_context() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.update(id=log.request_id.get(), left=deadline.remaining(world.now()), user=inbound.text(b"x-user-id"))
            seen.update(state=scope.get("state"))
            await echo(scope, receive, send)

    made, world = service(app, deadline_s=20)

    @made.resource
    async def database() -> Any:
        yield "db"

    await made.start(5)
    await ask(made, x_request_id="r-7", x_user_id="ann", x_gapless_deadline_ms="1500")
    assert seen == {"id": "r-7", "left": 1.5, "user": "ann", "state": {"database": "db"}}
    await ask(made, x_gapless_deadline_ms="99000")
    assert seen["left"] == 20
    assert seen["id"]
    assert log.request_id.get() == ""
    assert inbound.text(b"x-user-id") == ""


@pytest.mark.parametrize("sent", ["r-7", "5c1a8c1b-7a0c-4f7e-8a53-0a4ad2d4f8c1", "a" * 128, "Root=1-67:a/b+c=@d.e_f"])
async def test_a_callers_request_id_is_kept_and_echoed(sent: str) -> None:
    made, _ = service()
    assert (await ask(made, x_request_id=sent))[1]["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", " ", "a b", "a" * 129, 'a"b', "a\tb", "é", "<script>", "a;b"])
async def test_a_request_id_that_could_do_harm_is_replaced(sent: str) -> None:
    made, _ = service()
    ids = {(await ask(made, x_request_id=sent))[1]["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert sent not in ids


async def test_an_apps_own_request_id_stands() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"own")]})
        await send({"type": "http.response.body", "body": b""})

    made, _ = service(app)
    assert (await ask(made, x_request_id="r-7"))[1]["x-request-id"] == "own"


async def test_a_deadline_that_is_over_is_not_begun() -> None:
    calls: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(scope)

    made, _ = service(app)
    status, headers, _ = await ask(made, x_gapless_deadline_ms="0")
    assert (status, headers["content-type"]) == (504, "application/problem+json")
    assert calls == []


async def test_finish_waits_for_requests_and_spawned_work() -> None:
    gate, work = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            made.spawn(work.wait())
            await gate.wait()
            await echo(scope, receive, send)

    made, world = service(app)
    await made.start(5)
    request = asyncio.ensure_future(ask(made))
    await world.settle()
    finishing = asyncio.ensure_future(made.finish(10))
    await world.advance(3)
    assert not finishing.done()
    gate.set()
    await world.advance(1)
    assert request.done()
    assert not finishing.done()
    work.set()
    await world.advance(0)
    assert finishing.result()
    await made.close(1)


async def test_requests_over_the_limit_are_named(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    made, world = service(app)
    made._phase = made._phase  # never started: a drain must work all the same
    request = asyncio.ensure_future(ask(made, "/slow", "POST"))
    await world.settle()
    cancelled = made.spawn(asyncio.Event().wait(), "mail")
    assert not await passed(world, made.finish(2), 2)
    assert "over the drain limit: POST /slow" in caplog.text
    assert "mail" in caplog.text
    assert cancelled.cancelled()
    request.cancel()
    await world.settle()


async def test_close_goes_on_after_errors_and_limits_each() -> None:
    closed: list[str] = []
    made, world = service()

    @made.resource
    async def one() -> Any:
        yield
        closed.append("one")

    @made.resource
    async def two() -> Any:
        yield
        await asyncio.Event().wait()

    @made.resource
    async def three() -> Any:
        yield
        raise OSError("three")

    await made.start(5)
    with pytest.raises(ExceptionGroup) as caught:
        await passed(world, made.close(8), 8)
    assert [type(error) for error in caught.value.exceptions] == [OSError, TimeoutError]
    assert closed == ["one"]


async def test_a_crashing_task_is_restarted_with_backoff_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[float] = []
    made, world = service()

    @made.task
    async def refresh() -> None:
        runs.append(world.now())
        raise ValueError("bad row")

    await made.start(5)
    await world.advance(1.0)
    assert runs == pytest.approx([0, 0.1, 0.3, 0.7])
    assert made.ready
    assert "task refresh crashed" in caplog.text
    (restarts,) = [sample for sample in made.samples() if sample["name"] == "gapless_task_restarts"]
    assert restarts["values"] == [[["refresh"], 4.0]]
    await made.finish(1)
    assert world.pending == 0


async def test_a_check_that_fails_later_makes_unready_and_back() -> None:
    made, world = service()
    broken = False

    @made.check(every_s=2)
    async def database() -> None:
        if broken:
            raise OSError("gone")

    await made.start(5)
    broken = True
    await world.advance(2.5)
    assert (await ask(made, "/readyz"))[0] == 503
    assert made.health()["checks"]["database"]["detail"] == "OSError: gone"
    broken = False
    await world.advance(2)
    assert made.ready
    await made.finish(1)


async def test_metrics_count_by_method_and_class() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/boom":
            raise ValueError("boom")
        await echo(scope, receive, send)

    made, _ = service(app)
    await ask(made)
    await ask(made)
    await ask(made, method="BREW")
    with pytest.raises(ValueError, match="boom"):
        await ask(made, "/boom", "POST")
    await ask(made, "/readyz")
    (total,) = [sample for sample in made.samples() if sample["name"] == "gapless_requests"]
    assert total["values"] == [[["GET", "", "2xx"], 2.0], [["OTHER", "", "2xx"], 1.0], [["POST", "", "5xx"], 1.0]]


async def test_requests_that_no_user_waits_for_are_counted_by_themselves() -> None:
    made, _ = service()
    await ask(made)
    await ask(made, **{"x-gapless-mirror": "1"})
    found = {sample["name"]: sample["values"] for sample in made.samples()}
    assert found["gapless_requests"] == [[["GET", "", "2xx"], 1.0]]
    ((_, (_, *buckets)),) = found["gapless_mirrored_request_duration_seconds"]
    assert sum(buckets) == 1


async def test_as_the_outer_app_it_speaks_lifespan() -> None:
    made, world = service()
    told: asyncio.Queue[Any] = asyncio.Queue()
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    running = asyncio.ensure_future(made({"type": "lifespan"}, told.get, send))
    told.put_nowait({"type": "lifespan.startup"})
    await world.settle()
    assert said == [{"type": "lifespan.startup.complete"}]
    assert made.ready
    told.put_nowait({"type": "lifespan.shutdown"})
    await world.advance(1)
    assert said[1:] == [{"type": "lifespan.shutdown.complete"}]
    assert running.done()


async def test_a_service_without_an_app_answers_404() -> None:
    made = Service("bare", world=FakeWorld(), identity=Identity())
    await made.start(1)
    assert (await ask(made))[0] == 404
    assert made.health()["service"] == "bare"
    await made.finish(1)
    await made.close(1)


def test_a_resource_must_be_a_context() -> None:
    made, _ = service()

    async def wrong() -> None: ...

    with pytest.raises(TypeError, match="async generator"):
        made.resource(wrong)


def test_two_checks_of_one_name_clash() -> None:
    made, _ = service()
    made.check(lambda: True)
    with pytest.raises(ValueError, match="named '<lambda>' already"):
        made.check(lambda: True)


async def test_clients_are_made_once_follow_discovery_and_are_closed() -> None:
    world = FakeWorld()
    directory = Directory(world, table=static("stock", ["127.0.0.1:9"]))
    made = Service(world=world, identity=IDENTITY, directory=directory)
    client = made.client("stock")
    assert made.client("stock") is client
    await made.start(5)
    assert made.directory is directory
    assert (await client._callee.found(9.0)).service == "stock"
    await made.finish(1)
    await made.close(1)


async def test_a_failed_start_as_outer_app_is_told_to_the_server() -> None:
    made, _ = service(settings=lambda: 1 / 0)
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    await made({"type": "lifespan"}, nothing, send)
    assert said[0]["type"] == "lifespan.startup.failed"
    assert "stage 'settings' failed" in said[0]["message"]
    assert "ZeroDivisionError" in said[0]["message"]


async def test_what_fails_while_a_failed_start_is_undone_is_added() -> None:
    made, _ = service()

    @made.resource
    async def stubborn() -> Any:
        yield
        raise OSError("will not close")

    @made.warm_up
    def broken() -> None:
        raise ValueError("cold")

    with pytest.raises(AppError, match="cold") as caught:
        await made.start(5)
    assert "will not close" in caught.value.__notes__[0]


async def test_websockets_are_waited_for_too() -> None:
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()

    made, world = service(app)
    socket = asyncio.ensure_future(made.app({"type": "websocket", "path": "/live", "headers": []}, nothing, None))  # type: ignore[arg-type]
    await world.settle()
    finishing = asyncio.ensure_future(made.finish(5))
    await world.advance(1)
    assert not finishing.done()
    gate.set()
    await world.advance(0)
    assert finishing.result()
    assert socket.done()


def test_identity_comes_from_the_environment() -> None:
    env = {"GAPLESS_SERVICE": "orders", "GAPLESS_RELEASE": "2", "GAPLESS_DISCOVERY": "/s/control.sock", "OTHER": "x"}
    told = Identity.from_env(env)
    assert told == Identity(service="orders", release="2", discovery="/s/control.sock")
    assert told.controlled
    assert not Identity().controlled


async def test_a_source_tells_where_others_are_and_nothing_of_the_service_itself() -> None:
    identity = Identity(service="orders", discovery="static://127.0.0.1:9")
    assert not identity.controlled
    made = Service(world=FakeWorld(), identity=identity)
    client = made.client("orders")
    await made.start(5)
    assert [each.instance for each in (await client._callee.found(9.0)).endpoints] == ["127.0.0.1:9"]
    assert not made.directory.governs
    assert made.policies.protection is None
    await made.finish(1)
    await made.close(1)

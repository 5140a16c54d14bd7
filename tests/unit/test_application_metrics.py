"""Requests by route, what authors count, exemplars, and bounds for all labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from gapless.observe import metrics
from gapless.observe.metrics import Meter, Sample
from gapless.service.admin import merge, render
from gapless.service.business import Business
from gapless.service.identity import Identity
from gapless.service.kit import Service
from gapless.service.mount import mounted
from gapless.service.route_label import MOST_ROUTES, Routes, route_of, templated
from gapless.testing import FakeWorld


async def ask(app: Any, path: str, traceparent: bytes = b"") -> None:
    headers = [(b"traceparent", traceparent)] if traceparent else []
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "server": ("x", 80), "scheme": "http"}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    await app(scope, receive, send)


def counted(service: Service, name: str = "gapless_requests") -> Mapping[tuple[str, ...], float]:
    (found,) = [sample for sample in service.samples() if sample["name"] == name]
    return {tuple(labels): value for labels, value in found["values"]}


async def answer(request: Any) -> PlainTextResponse:
    return PlainTextResponse("fine")


def starlette_app() -> Any:
    inner = [Route("/{id}", answer)]
    return Starlette(
        routes=[Route("/", answer), Route("/orders/{id:int}", answer), Mount("/shops/{shop}", routes=inner)]
    )


def fastapi_app() -> Any:
    import fastapi  # only in the process that runs this test

    app = fastapi.FastAPI()
    app.add_api_route("/orders/{id}", lambda id: {"id": id})  # noqa: A006
    return app


def litestar_app() -> Any:
    from tests.unit.litestar_kit import app

    return app()


@pytest.mark.parametrize(
    ("app", "path", "route"),
    [
        (starlette_app, "/", "/"),
        (starlette_app, "/orders/7", "/orders/{id:int}"),
        (starlette_app, "/shops/12/x", "/shops/{shop}/{id}"),
        (starlette_app, "/nowhere", ""),
        (fastapi_app, "/orders/7", "/orders/{id}"),
        (litestar_app, "/orders/7", "/orders/{number}"),
        (lambda: mounted(starlette_app(), "/shop"), "/orders/7", "/orders/{id:int}"),
    ],
)
async def test_requests_are_counted_by_the_template_of_their_route(app: Any, path: str, route: str) -> None:
    service = Service("orders", app(), identity=Identity(), world=FakeWorld())
    await ask(service.app, path)
    await ask(service.app, path)
    [(labels, value)] = counted(service).items()
    assert labels[0] == "GET"
    assert labels[1] == route
    assert value == 2


async def test_what_is_taken_for_a_route_has_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    async def every_path_is_an_endpoint(scope: Any, receive: Any, send: Any) -> None:
        scope["endpoint"] = answer
        await send({"type": "http.response.start", "status": 200})

    service = Service("orders", every_path_is_an_endpoint, identity=Identity(), world=FakeWorld())
    for n in range(MOST_ROUTES + 20):
        await ask(service.app, f"/{n}")
    found = counted(service)
    assert len(found) == MOST_ROUTES + 1
    assert found["GET", "other", "2xx"] == 20
    assert service.app.answered == MOST_ROUTES + 20
    assert caplog.text.count("more than 200 routes") == 1


def test_templates() -> None:
    assert templated("/a/7/7b", {"n": 7, "rest": "7b"}) == "/a/{n}/{rest}"
    assert templated("/files/a/b", {"path": "a/b"}) == "/files/{path}"
    assert route_of({"path": "/x"}) == ""
    assert Routes(1).label("/") == "/"


async def test_a_traced_request_leaves_its_trace_at_its_bucket() -> None:
    service = Service("orders", starlette_app(), identity=Identity(), world=FakeWorld())
    await ask(service.app, "/orders/7", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    text = render(service.samples(), open_metrics=True).decode()
    assert '# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.0' in text
    assert "4bf92f" not in render(service.samples()).decode()


def test_exemplars_of_workers_are_merged_by_the_latest() -> None:
    def worker(trace: str, at: float, value: float = 0.2) -> list[Sample]:
        meter = Meter()
        took = meter.histogram("took", "", ("way",)).labels("x")
        took.observe(value)
        took.exemplify(value, trace, at)
        return meter.samples()

    [both] = merge([worker("a", 1.0), worker("b", 2.0), worker("c", 0.0), worker("d", 0.0, 0.7)])
    assert [[row[1:] for row in rows] for _, rows in both["exemplars"]] == [[["b", 0.2, 2.0], ["d", 0.7, 0.0]]]


def test_an_older_build_s_labels_are_filled_up() -> None:
    one, other = Meter(), Meter()
    one.counter("n", "", ("method", "route")).labels("GET", "/").inc()
    other.counter("n", "", ("method",)).labels("GET").inc()
    [both] = merge([one.samples(), other.samples()])
    assert both["values"] == [[["GET", "/"], 1.0], [["GET", ""], 1.0]]


def test_labels_without_end_are_counted_as_other_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "MOST_CHILDREN", 10)
    meter = Meter()
    business = Business(meter)
    for n in range(50):
        business.count("paid", user=n)
    [sample] = meter.samples()
    assert len(sample["values"]) == 11
    assert sample["values"][-1] == [["other"], 40.0]
    assert len(business._children) == 10
    assert caplog.text.count("more than 10 combinations") == 1


def test_what_an_author_counts() -> None:
    meter = Meter()
    business = Business(meter)
    business.count("orders_paid", way="card")
    business.count("orders_paid", 2, way="card")
    business.gauge("queue", 7)
    business.gauge("queue", 3)
    business.observe("basket", 12.5, bounds=(10.0, 100.0))
    business.observe("basket", 200)
    text = render(meter.samples()).decode()
    for line in ('orders_paid_total{way="card"} 3.0', "queue 3.0", 'basket_bucket{le="100.0"} 1.0', "basket_sum 212.5"):
        assert line in text


def test_labels_that_came_later_are_told_once_and_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter()
    business = Business(meter)
    business.count("paid", way="card")
    business.count("paid", way="card", currency="EUR")
    business.count("paid", currency="EUR")
    assert [row[1] for row in meter.samples()[0]["values"]] == [2.0, 1.0]
    assert caplog.text.count("are left out") == 1


@pytest.mark.parametrize("name", ["", "a b", "9a", "gapless_requests", "process_x", "a-b"])
def test_names_that_cannot_be_used(name: str) -> None:
    with pytest.raises(ValueError, match=r"no name for a metric|are taken"):
        Business(Meter()).count(name)


def test_one_name_is_one_kind() -> None:
    business = Business(Meter())
    business.gauge("paid", 1)
    with pytest.raises(ValueError, match="exists already"):
        business.count("paid")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=30))
def test_a_count_is_the_sum_of_what_was_counted(events) -> None:
    meter = Meter()
    business = Business(meter)
    for way, amount in events:
        business.count("paid", amount, way=way)
    total = sum(row[1] for sample in meter.samples() for row in sample["values"])
    assert total == sum(amount for _, amount in events)


async def test_a_worker_tells_what_it_takes_and_how_late_its_loop_is() -> None:
    world = FakeWorld()
    service = Service("orders", starlette_app(), identity=Identity(), world=world)
    await service.start()
    await world.advance(2.0)
    names = {sample["name"] for sample in service.samples()}
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds", "process_threads"} <= names
    assert {"python_gc_collections", "gapless_gc_pause_seconds"} <= names
    [(_, lag)] = counted(service, "gapless_loop_lag_seconds").items()
    assert sum(lag[1:]) == 4
    memory = counted(service, "process_resident_memory_bytes")[()]
    assert 1e6 < memory < 1e11
    await service.finish(1)
    await service.close(1)

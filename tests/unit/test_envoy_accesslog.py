"""Figures from Envoy's own messages: what counts, as what, and for how long."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from gapless.core.model import HISTOGRAM_BOUNDS_S
from gapless.gateway.envoy.accesslog import KEPT_S, SLOWEST_KEPT_S, SLOWEST_PER_SECOND, AccessLog
from gapless.gateway.envoy.entries import LINE, Entry, message_class
from gapless.testing.world import EPOCH_AT, FakeWorld

pytest.importorskip("google.protobuf")


@pytest.fixture(scope="module")
def entries() -> Any:
    return message_class()


def add(
    message: Any,
    status: int = 200,
    *,
    cluster: str = "orders@1",
    user: str = "-",
    ms: float = 5,
    flag: str = "-",
    **others: str,
) -> None:
    """An entry of a request that came in a millisecond, and was answered so many later."""
    us = round(ms * 1000)
    fields = {
        "cluster": cluster,
        "status": str(status),
        "flags": flag,
        "received": "1000",
        "first": "2000",
        "last": str(us + 1000),
        "sent": str(us + 9000),
        "ms": str(us // 1000 + 9),
        "user": user,
    }
    entry = Entry(*["-"] * len(Entry._fields))._replace(**{**fields, **others})
    record = message.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=1_500_000_000)
    record.body.text = "\n".join(entry).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("status", "flag", "error"),
    [
        (200, "-", False),
        (404, "-", False),
        (500, "-", True),
        (503, "UR", True),
        (504, "UT", True),
        (0, "-", True),
        (200, "UC,URX", True),
        (0, "DC", False),
        (200, "DC", False),
    ],
)
async def test_what_is_an_error(entries: Any, status: int, flag: str, error: bool) -> None:
    log, message = AccessLog(FakeWorld()), entries()
    add(message, status, flag=flag, user="u")
    log.take(message)
    window = await log.window("orders", "1", EPOCH_AT, EPOCH_AT + 1)
    assert (window.requests, window.errors) == (1, int(error))
    assert window.failed == (("u",) if error else ())


async def test_windows_side_by_side_count_everything_once(entries: Any) -> None:
    world = FakeWorld()
    log = AccessLog(world)
    for _ in range(10):
        message = entries()
        add(message)
        log.take(message)
        await world.advance(0.7)
    edges = [EPOCH_AT, EPOCH_AT + 2.3, EPOCH_AT + 2.5, EPOCH_AT + 6, EPOCH_AT + 9]
    found = [await log.window("orders", "1", a, b) for a, b in pairwise(edges)]
    assert sum(window.requests for window in found) == 10


def from_instance(message: Any, port: int, ms: float) -> None:
    add(message, 500, ms=ms, user="u", place=f"10.0.0.1:{port}")


async def test_the_latency_of_an_instance_counts_once_it_is_warm_and_its_errors_at_once(entries: Any) -> None:
    world = FakeWorld()
    log = AccessLog(world)

    async def answered(port: int, times: int) -> Any:
        since_at = world.time()
        message = entries()
        for _ in range(times):
            from_instance(message, port, 900)
        log.take(message)
        await world.advance(1.0)
        return await log.window("orders", "1", since_at, since_at + 1)

    first = await answered(1, 30)
    assert (first.requests, first.errors, sum(first.latency), first.tail) == (30, 30, 0, ())
    await world.advance(3.0)
    assert sum((await answered(1, 5)).latency) == 5
    assert sum((await answered(2, 5)).latency) == 0  # its replacement after a crash begins anew
    await world.advance(5.0)
    assert sum((await answered(2, 20)).latency) == 5  # enough time, and then enough answers


async def test_releases_and_services_are_kept_apart(entries: Any) -> None:
    log, message = AccessLog(FakeWorld()), entries()
    for cluster in ("orders@1", "orders@2", "orders@2", "pay@1", "-", "gapless"):
        add(message, cluster=cluster)
    log.take(message)
    found = {
        (service, release): (await log.window(service, release, 0, 2e9)).requests
        for service in ("orders", "pay")
        for release in "12"
    }
    assert found == {("orders", "1"): 1, ("orders", "2"): 2, ("pay", "1"): 1, ("pay", "2"): 0}


async def test_latency_is_the_releases_own(entries: Any) -> None:
    log, message = AccessLog(FakeWorld()), entries()
    add(message, ms=5)
    add(message, 101, ms=500_000)
    add(message, cluster="pay@1", received="9000000")  # the answer came before the request had
    add(message, 503, cluster="cut@1", last="-", sent="-")
    log.take(message)
    for service, took_s in (("pay", 0.0), ("cut", 0.014)):
        ((_, found),) = (await log.window(service, "1", 0, 2e9)).tail
        assert found == pytest.approx(took_s)
    window = await log.window("orders", "1", 0, 2e9)
    at = {i for i, count in enumerate(window.latency) if count}
    assert at == {next(i for i, b in enumerate(HISTOGRAM_BOUNDS_S) if b >= s) for s in (0.005, 0.001)}
    assert len(window.latency) == len(HISTOGRAM_BOUNDS_S) + 1


async def test_memory_is_bounded(entries: Any) -> None:
    world = FakeWorld()
    log = AccessLog(world)
    message = entries()
    for i in range(SLOWEST_PER_SECOND + 50):
        add(message, user=f"u{i}", ms=i + 1)
    log.take(message)
    window = await log.window("orders", "1", 0, 2e9)
    assert len(window.tail) == SLOWEST_PER_SECOND
    assert min(took_s for _, took_s in window.tail) == pytest.approx(0.051)
    for second in (SLOWEST_KEPT_S, KEPT_S):
        await world.advance(second)
        one = entries()
        add(one)
        log.take(one)
        window = await log.window("orders", "1", EPOCH_AT, EPOCH_AT + 1)
        assert window.tail == ()
    assert window.requests == 0


async def test_a_clock_that_is_set_back_reopens_nothing(entries: Any) -> None:
    world = FakeWorld()
    log = AccessLog(world)
    await world.advance(10)
    message = entries()
    add(message)
    log.take(message)
    world._now = 3.0
    log.take(message)
    assert (await log.window("orders", "1", EPOCH_AT + 10, EPOCH_AT + 11)).requests == 2


@pytest.mark.parametrize("flag", ["RL", "FI", "DI,FI"])
async def test_what_the_gateway_answers_by_itself_is_nobodys(entries: Any, flag: str) -> None:
    log, message = AccessLog(FakeWorld()), entries()
    add(message, 429, flag=flag)
    log.take(message)
    assert (await log.window("orders", "1", 0, 2e9)).requests == 0


async def test_a_header_that_is_no_text_blinds_nobody(entries: Any) -> None:
    """A client may send what protobuf would refuse a message for."""
    log, message = AccessLog(FakeWorld()), entries()
    add(message, 500, user="a\udcff")
    add(message, 500, user="b")
    log.take(entries.FromString(message.SerializeToString()))
    assert (await log.window("orders", "1", 0, 2e9)).failed == ("a\ufffd", "b")


@pytest.mark.parametrize(("header", "trailer", "error"), [("-", "14", True), ("13", "-", True), ("-", "5", False)])
async def test_the_outcome_of_a_call_is_its_grpc_status(entries: Any, header: str, trailer: str, error: bool) -> None:
    log, message = AccessLog(FakeWorld()), entries()
    add(message, grpc_header=header, grpc_trailer=trailer)
    log.take(message)
    assert (await log.window("orders", "1", 0, 2e9)).errors == error


async def test_a_recorded_request_has_a_span(entries: Any) -> None:
    log, message = AccessLog(FakeWorld()), entries()
    trace, child, caller = "1" * 32, "2" * 16, "3" * 16
    answered, asked = f"00-{trace}-{child}-01", f"00-{trace}-{caller}-01"
    add(message, 503, answered=answered, asked=asked, method="GET", path="/orders?secret=1")
    add(message, answered=answered.replace("-01", "-00"), asked=asked)
    log.take(message)
    (span,) = log.kept.take()
    assert (span.trace_id, span.parent_id, span.name, span.failed) == (trace, caller, "GET", True)
    assert (span.began_at, span.took_s, span.attributes["url.path"]) == (1.5, pytest.approx(0.014), "/orders")


def test_a_line_has_a_command_for_each_field() -> None:
    assert len(LINE.split("\n")) == len(Entry._fields)
    assert all(command.startswith("%") and command.endswith("%") for command in LINE.split("\n"))

"""Deadlines and retries of single routes, and that nothing is repeated that must not be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from gapless.core.model import Retries, Route
from tests.integration.envoy_kit import Rig, Upstream, ask, running, service, table

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"idempotency-key": "k-1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


@dataclass(frozen=True, slots=True)
class Case:
    """A request to a route, the status that comes of it, and how often the instances saw it."""

    retries: Retries
    method: str
    asked: str
    status: int
    seen: int
    headers: Mapping[str, str] = field(default_factory=dict)


ONLY_GET = Retries(methods=("GET",))
ON_502 = Retries(on=(502,), attempts=2)
UNKEYED = Retries(keyed=False)
CASES = {
    "a reset is repeated as often as it may": Case(Retries(attempts=2), "GET", "abort=1", 503, 3),
    "unless nothing is": Case(Retries(attempts=0), "GET", "abort=1", 503, 1),
    "nor what is declined": Case(Retries(attempts=0), "GET", "draining=1", 503, 1),
    "nor anything with a key": Case(Retries(attempts=0), "POST", "abort=1", 503, 1, KEY),
    "a POST never": Case(Retries(), "POST", "abort=1", 503, 1),
    "unless it has a key": Case(Retries(attempts=2), "POST", "abort=1", 503, 3, KEY),
    "that the route believes": Case(UNKEYED, "POST", "abort=1", 503, 1, KEY),
    "a method that the route leaves out": Case(ONLY_GET, "PUT", "abort=1", 503, 1),
    "a method that it names": Case(ONLY_GET, "GET", "abort=1", 503, 4),
    "a status is an answer": Case(Retries(), "GET", "status=502", 502, 1),
    "one that the route names is not": Case(ON_502, "GET", "status=502", 502, 3),
    "another is": Case(ON_502, "GET", "status=503", 503, 1),
    "nor is it for a POST": Case(ON_502, "POST", "status=502", 502, 1),
    "but for one with a key": Case(ON_502, "POST", "status=502", 502, 3, KEY),
}


async def instances(rig: Rig) -> list[Upstream]:
    """As many as a request may meet."""
    return [await rig.upstream(f"i{number}") for number in range(4)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_what_is_sent_again(case: Case, rig: Rig) -> None:
    found = await instances(rig)
    route = Route(path="/orders", retries=case.retries)
    await rig.traffic.apply(table(service([each.endpoint() for each in found], routes=[route, Route(path="/other")])))
    reply = await ask(rig.port, f"/orders?{case.asked}", method=case.method, headers=case.headers)
    assert (reply.status, sum(len(each.seen) for each in found)) == (case.status, case.seen)


async def test_what_nobody_can_have_seen_is_sent_again_whatever_the_method(rig: Rig) -> None:
    """Even where the route repeats only GET. With no attempts, not even that."""
    gone, there = await rig.upstream("gone"), await rig.upstream("there")
    endpoints = [gone.endpoint(), there.endpoint()]
    await gone.stop()
    rig.upstreams.remove(gone)
    routes = [Route(path="/orders", retries=ONLY_GET), Route(path="/once", retries=Retries(attempts=0))]
    await rig.traffic.apply(table(service(endpoints, routes=routes)))
    assert {(await ask(rig.port, "/orders", method="POST")).status for _ in range(6)} == {200}


async def test_each_route_has_its_own_time(rig: Rig) -> None:
    old = await rig.upstream("old")
    routes = [Route(path="/quick", timeout_s=0.2), Route(path="/slow", timeout_s=5.0), Route(path="/usual")]
    await rig.traffic.apply(table(service([old.endpoint()], routes=routes, timeout_s=3.0)))
    assert (await ask(rig.port, "/quick?wait=1")).status == 504
    assert (await ask(rig.port, "/slow?wait=0.4")).status == 200
    assert (await ask(rig.port, "/usual?wait=0.4")).status == 200
    told = {path.partition("?")[0]: headers["x-gapless-deadline-ms"] for _, path, headers in old.seen}
    assert told == {"/quick": "200", "/slow": "5000", "/usual": "3000"}


async def test_an_attempt_that_takes_too_long_is_made_elsewhere(rig: Rig) -> None:
    """For what may be repeated; a POST ends there, for somebody may still be doing it."""
    slow, quick = await rig.upstream("slow"), await rig.upstream("quick")
    slow.delay_s = 2.0
    routes = [Route(path="/orders", timeout_s=10.0, try_timeout_s=0.3)]
    await rig.traffic.apply(table(service([slow.endpoint(), quick.endpoint()], routes=routes)))
    replies = [await ask(rig.port, "/orders")]
    while not slow.seen:  # it is drawn first by chance
        replies.append(await ask(rig.port, "/orders"))
    assert {(reply.status, reply.body) for reply in replies} == {(200, b"quick")}
    slow.seen.clear()
    statuses = []
    while not slow.seen:
        statuses.append((await ask(rig.port, "/orders", method="POST")).status)
    assert statuses[-1] == 504
    assert len(slow.seen) == 1

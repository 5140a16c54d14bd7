"""How the real Envoy asks the instances of a release: slowly at first, within limits, and not those that fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from gapless.core.model import ServiceTable, Upstream
from gapless.core.world import RealWorld
from tests.integration import envoy_kit as kit
from tests.integration.envoy_kit import Rig, ask, running, service, table

pytestmark = pytest.mark.asyncio(loop_scope="module")

WINDOW_S = 2.0
LIMIT_S = 20.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


def asked_by(upstream: Upstream, *instances: kit.Upstream, timeout_s: float = 15.0) -> ServiceTable:
    return replace(service([each.endpoint() for each in instances], timeout_s=timeout_s), upstream=upstream)


async def statuses(rig: Rig, count: int) -> Counter[int]:
    return Counter([(await ask(rig.port, "/orders")).status for _ in range(count)])


async def test_the_share_of_a_new_instance_grows(rig: Rig) -> None:
    old, new = await rig.upstream("old"), await rig.upstream("new")
    slowly, world = Upstream(slow_start_s=WINDOW_S), RealWorld()
    await rig.traffic.apply(table(asked_by(slowly, old)))
    await asyncio.sleep(WINDOW_S)  # the first one, too, is new
    client, answers = kit.Client(rig.port), []
    before = world.now()
    await rig.traffic.apply(table(asked_by(slowly, old, new), version=2))
    grown = world.now() + WINDOW_S
    while world.now() < grown + WINDOW_S / 2 or len(answers) < 200:
        reply = await client.ask("/orders")
        answers.append((world.now(), reply.body))
    await client.close()
    early = [name for at, name in answers if at < before + WINDOW_S / 2]
    late = [name for at, name in answers if at > grown]
    assert early.count(b"new") / len(early) < 0.4, (len(early), len(late))
    assert 0.4 < late.count(b"new") / len(late) < 0.6, (len(early), len(late))


async def test_connections_are_bounded_and_requests_wait_for_one_until_their_time_is_up(rig: Rig) -> None:
    """A thread of Envoy's that has none may open one; there are two."""
    one = await rig.upstream("one")
    await rig.traffic.apply(table(asked_by(Upstream(connections=1), one)))
    answers = asyncio.gather(*(ask(rig.port, "/orders?wait=0.05") for _ in range(20)))
    most = 0
    while not answers.done():
        most = max(most, len(one._tasks))
        await asyncio.sleep(0.01)
    assert Counter(answer.status for answer in await answers) == {200: 20}
    assert 1 <= most <= 2
    await rig.traffic.apply(table(asked_by(Upstream(connections=1), one, timeout_s=0.6), version=2))
    answers = asyncio.gather(*(ask(rig.port, "/orders?wait=0.4") for _ in range(8)))
    assert {answer.status for answer in await answers} == {200, 504}


async def test_one_that_fails_is_set_aside_and_brought_back(rig: Rig) -> None:
    well, sick = await rig.upstream("well"), await rig.upstream("sick")
    sick.status = 503
    await rig.traffic.apply(table(asked_by(Upstream(eject_after=3, eject_for_s=1.0), well, sick)))
    async with asyncio.timeout(LIMIT_S):
        while await statuses(rig, 20) != {200: 20}:
            pass
    assert len(sick.seen) >= 3, "not before"
    sick.status, asked = 200, len(sick.seen)
    async with asyncio.timeout(LIMIT_S):
        while len(sick.seen) == asked:
            assert await statuses(rig, 5) == {200: 5}


@pytest.mark.parametrize("upstream", [Upstream(eject_after=0), Upstream(eject_after=3, eject_most=0)])
async def test_none_is_set_aside_where_none_may_be(rig: Rig, upstream: Upstream) -> None:
    well, sick = await rig.upstream("well"), await rig.upstream("sick")
    sick.status = 503
    await rig.traffic.apply(table(asked_by(upstream, well, sick)))
    await statuses(rig, 60)
    asked = len(sick.seen)
    await statuses(rig, 40)
    assert len(sick.seen) > asked


async def test_with_all_of_them_sick_the_gateway_says_so_at_once_and_asks_none(rig: Rig) -> None:
    """Facts, pitfall 5: `healthy_panic_threshold` of 0."""
    both = [await rig.upstream("one"), await rig.upstream("two")]
    for each in both:
        each.status = 503
    await rig.traffic.apply(table(asked_by(Upstream(eject_after=2, eject_for_s=60.0, eject_most=100), *both)))

    def asked() -> int:
        return sum(len(each.seen) for each in both)

    async with asyncio.timeout(LIMIT_S):
        before = -1
        while before != asked():
            before = asked()
            await statuses(rig, 5)
    reply = await ask(rig.port, "/orders?wait=30")
    assert (reply.status, reply.body) == (503, b"no healthy upstream")
    assert await statuses(rig, 10) == {503: 10}
    assert asked() == before
    ejected = (await rig.traffic.details())["ejected"]
    assert {each["address"] for each in ejected} == {f"127.0.0.1:{each.port}" for each in both}
    assert {each["service"] for each in ejected} == {"orders"}

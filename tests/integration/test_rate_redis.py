"""Rates that processes share on a real Redis."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gapless.core.errors import ConfigError
from gapless.resilience.errors import RateLimited
from gapless.resilience.events import SharedStateLost
from gapless.resilience.guard import guard
from gapless.resilience.rate import exact, leased, rate, top
from gapless.resilience.rate_redis import MEMBER_TTL_S
from gapless.resilience.rate_shared import LEASE_S
from tests.integration.redis_kit import RedisServer

PROCESSES = 4


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
async def client(server):
    import redis.asyncio

    made = redis.asyncio.Redis.from_url(server.url)
    yield made
    await made.aclose()


async def admitted(guarded, calls: int, **given: object) -> int:
    count = 0
    for _ in range(calls):
        try:
            async with guarded.enter(**given):
                count += 1
        except RateLimited:
            pass
    return count


class Turns:
    """Time as far as this process had a processor. It is busy for no more than some 100 µs in each turn of its loop:
    where turns are further apart than TURN_S, others had it."""

    TURN_S = 0.004

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.lost_s = 0.0

    def now(self) -> float:
        at = time.monotonic()
        self.lost_s += max(at - self.last - self.TURN_S, 0.0)
        self.last = at
        return at - self.began - self.lost_s


async def admitted_for(guarded, seconds: float, pause_s: float = 0.001, **given: object) -> int:
    count, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        count += await admitted(guarded, 1, **given)
        await asyncio.sleep(pause_s)
    return count


def at_once(guarded) -> int:
    """Calls admitted of one, which waits for nothing: not even for a turn of the loop."""
    call = admitted(guarded, 1)
    with pytest.raises(StopIteration) as ended:
        call.send(None)
    return int(ended.value.value)


async def come_back(guarded) -> None:
    """Calls go on until Redis decides again."""
    until = time.monotonic() + 10.0
    while figures(guarded)["away"]:
        assert time.monotonic() < until
        await admitted(guarded, 1)
        await asyncio.sleep(0.002)


def figures(guarded) -> dict[str, object]:
    return guarded.statistics()["policies"]["rate"]


async def test_exact_admits_the_burst_and_tells_when_to_come_again(client):
    shared = exact(client, patience=10.0)  # what a busy machine does to it is not asked here
    ours = guard("exact", rate("10/s", key="{user}", burst=5, shared=shared, overrides={"no": "0/s", "vip": "50/s"}))
    assert await admitted(ours, 9, user="ann") == 5
    assert await admitted(ours, 9, user="bob") == 5
    assert await admitted(ours, 60, user="vip") >= 50
    assert await admitted(ours, 3, user="no") == 0
    while await admitted(ours, 1, user="ann"):
        pass  # the calls above took their time
    with pytest.raises(RateLimited) as refused:
        await admitted_once(ours, user="ann")
    assert 0 < refused.value.retry_after_s <= 0.1
    await asyncio.sleep(refused.value.retry_after_s)
    assert await admitted(ours, 1, user="ann") == 1
    ours.close()


async def admitted_once(guarded, **given: object) -> None:
    async with guarded.enter(**given):
        pass


async def test_two_guards_of_one_name_share_and_keys_expire_by_themselves(client):
    one, two = (guard("same", rate("50/s", burst=10, shared=client)) for _ in range(2))
    began = time.monotonic()
    assert 10 <= await admitted(one, 8) + await admitted(two, 8) <= 11 + 50 * (time.monotonic() - began)
    await asyncio.sleep(0.3)
    keys = await client.keys("*:key:*")
    assert keys == [], "a bucket that is full again needs no key"
    one.close(), two.close()


async def test_scripts_are_loaded_again_when_redis_has_forgotten_them(client):
    ours = guard("flushed", rate("10/s", burst=5, shared=client))
    assert await admitted(ours, 1) == 1
    await client.script_flush()
    assert await admitted(ours, 9) == 4
    assert figures(ours)["away"] == 0
    ours.close()


async def test_exact_goes_on_with_its_part_when_redis_is_killed_and_comes_back_without_a_burst(server, client):
    ours, events = guard("killed", rate("100/s", shared=exact(client, processes=4))), []
    ours.subscribe(events.append)
    await admitted(ours, 200)
    server.kill()
    began = time.monotonic()
    alone = await admitted_for(ours, 1.0)
    took = time.monotonic() - began
    # One process of this name has said that it is there: its part is the whole.
    assert alone <= 100 * took + 2
    assert alone >= 50
    server.start()
    await come_back(ours)
    at = time.monotonic()
    back = await admitted(ours, 100)
    assert back <= 100 * (time.monotonic() - at) + 3, "the bucket is not full because Redis has forgotten it"
    told = [event.lost for event in events if isinstance(event, SharedStateLost)]
    assert told[:2] == [True, False]
    assert all(one != other for one, other in pairwise(told)), "a machine that is busy for 50 ms loses it again"
    ours.close()


async def test_a_frozen_redis_delays_one_call_by_its_patience_and_no_other(server, client):
    ours = guard("frozen", rate("1000/s", shared=exact(client, patience=0.05)))
    await admitted(ours, 10)
    server.freeze()
    try:
        times = []
        for _ in range(50):
            began = time.monotonic()
            await admitted(ours, 1)
            times.append(time.monotonic() - began)
        assert times[0] < 0.5
        assert sorted(times[1:])[len(times) // 2] < 0.005
    finally:
        server.thaw()
    ours.close()


async def test_leased_decides_locally_and_admits_no_more_than_the_rate(client):
    ours = guard("leased", rate("200/s", burst=20, shared=leased(client)))
    began = time.monotonic()
    count = await admitted_for(ours, 2.0)
    took = time.monotonic() - began
    assert 0.85 * 200 * took <= count <= 20 + 200 * took + 20
    ours.close()


async def test_leased_keys_do_not_disturb_each_other(client):
    ours = guard("keys", rate("10/min", key="{user}", shared=leased(client), hot=top(100), overrides={"no": "0/s"}))
    counts = dict.fromkeys(("ann", "bob", "cy"), 0)
    for _ in range(40):
        for user in counts:
            counts[user] += await admitted(ours, 1, user=user)
        await asyncio.sleep(0.012)
    assert all(9 <= count <= 11 for count in counts.values()), counts
    assert await admitted(ours, 3, user="no") == 0
    ours.close()


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_leased_falls_to_its_part_within_50_ms_and_no_call_is_delayed(server, client, how):
    ours = guard("lost", rate("400/s", shared=leased(client)))
    for number in range(3):  # three more processes of this guard
        await client.zadd("gapless:{lost}:/1s:processes", {f"other{number}": 9e18})
    await admitted_for(ours, 0.3)
    assert figures(ours)["processes"] == 4
    await admitted_for(ours, 1.2)
    getattr(server, how)()
    turns, longest, noticed, count = Turns(), 0.0, None, 0
    while turns.now() < 1.0:
        cpu_s = time.thread_time()
        count += at_once(ours)
        longest = max(longest, time.thread_time() - cpu_s)
        if noticed is None and figures(ours)["away"]:
            noticed = turns.now()
        await asyncio.sleep(0.001)
    took = time.monotonic() - turns.began
    assert noticed is not None
    assert noticed < 0.05
    assert longest < 0.005
    assert 0.7 * 100 * took <= count <= 100 * took + 12, "a quarter, and what was left of the lease"
    server.thaw() if how == "freeze" else server.start()
    await admitted_for(ours, 0.4)
    await come_back(ours)
    at = time.monotonic()
    back = await admitted_for(ours, 0.5)
    assert back <= 400 * (time.monotonic() - at) + 40, "no burst"
    ours.close()


def test_leased_serves_threads_with_a_thread_of_its_own(server):
    ours, counts = guard("threads", rate("200/s", burst=20, shared=leased(server.url))), []

    @ours
    def call() -> int:
        return 1

    def run() -> None:
        count, until = 0, time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                count += call()
            except RateLimited:
                time.sleep(0.001)
        counts.append(count)

    began = time.monotonic()
    threads = [threading.Thread(target=run) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert 0.8 * 200 * 1.5 <= sum(counts) <= 20 + 200 * (time.monotonic() - began) + 20
    ours.close()


def test_exact_serves_threads_with_a_blocking_client(server):
    import redis

    with redis.Redis.from_url(server.url) as client:
        ours = guard("blocking", rate("10/s", burst=5, shared=client))

        @ours
        def call() -> int:
            return 1

        assert call() == 1
        with pytest.raises(RateLimited):
            [call() for _ in range(9)]
        ours.close()


@pytest.mark.parametrize("how", [exact, leased])
def test_a_client_may_be_closed_as_soon_as_its_guard_is(server, how):
    """Whatever a thread of the guard was doing with it just then (an exception there fails the test)."""
    import redis

    for number in range(100):
        with redis.Redis.from_url(server.url) as client:
            ours = guard(f"closed {number}", rate("10/s", shared=how(client)))
            ours(lambda: None)()
            time.sleep(number % 25 * 4e-5)
            ours.close()
    time.sleep(0.1)


@pytest.mark.parametrize("how", [exact, leased])
async def test_a_url_is_enough_and_what_it_opened_is_closed(server, client, how):
    ours = guard("by url", rate("10/s", burst=5, shared=how(server.url)))
    assert await admitted(ours, 1) == 1
    await asyncio.sleep(0.1)
    ours.replace(rate("10/s", burst=5, shared=how(server.url)))
    assert await admitted(ours, 1) == 1
    ours.replace(rate("10/s", burst=5))
    assert await admitted(ours, 9) == 5, "another place of the state begins anew"
    until = time.monotonic() + 5.0
    while len(await client.client_list()) > 1 and time.monotonic() < until:
        await asyncio.sleep(0.02)
    assert len(await client.client_list()) == 1
    ours.close()


async def test_cancelled_calls_leave_the_connection_usable(client):
    ours = guard("cancelled", rate("1000/s", shared=exact(client, patience=10.0)))
    for turns in range(12):
        call = asyncio.ensure_future(admitted(ours, 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert await admitted(ours, 20) == 20
    assert figures(ours)["away"] == 0
    ours.close()


async def test_the_wrong_kind_of_client_is_refused_at_once(client):
    for shared in (exact(client), leased(client)):
        with pytest.raises(ConfigError, match="is not async"):
            guard("wrong", rate("10/s", shared=shared))(len)


WORKER = """
import asyncio, json, sys, time
import redis.asyncio
from gapless.resilience.errors import RateLimited
from gapless.resilience.guard import guard
from gapless.resilience.rate import exact, leased, rate

async def main(url, how, seconds):
    client = redis.asyncio.Redis.from_url(url)
    ours = guard("many", rate("500/s", burst=50, shared={"exact": exact, "leased": leased}[how](client)))
    await client.ping()
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    await asyncio.sleep(begin - time.time())
    until, count, asked = time.monotonic() + seconds, 0, []
    while time.monotonic() < until:
        asked.append(time.time())
        try:
            async with ours.enter():
                count += 1
        except RateLimited:
            pass
        await asyncio.sleep(0.002)
    print(json.dumps({"admitted": count, "asked": asked, **ours.statistics()["policies"]["rate"]}))
    ours.close()
    await client.aclose()

asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""


SOON_S = 0.3
"""From the word to the moment: a process hears it on a busy machine, too."""


def began_together(argvs: list[list[str]]) -> tuple[float, list[subprocess.Popen[bytes]]]:
    """Processes that have all loaded what they need before the moment, which is returned, in which they begin."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    workers = [subprocess.Popen([sys.executable, "-c", *argv], **pipes) for argv in argvs]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
    begin = time.time() + SOON_S
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"%r\n" % begin)
        worker.stdin.flush()
    return begin, workers


def one_bucket(asked: list[float], each_s: float, burst: float) -> int:
    """How many of these moments a single bucket admits: fewer than the rate where busy machines ask too seldom."""
    left, at, count = burst, asked[0], 0
    for moment in asked:
        left, at = min(left + (moment - at) * each_s, burst), moment
        if left >= 1:
            left, count = left - 1, count + 1
    return count


@pytest.mark.parametrize(("how", "above"), [("exact", 0.005), ("leased", 0.01)])
def test_four_processes_together_admit_the_rate(server, how, above):
    seconds = 4.0
    _, workers = began_together([[WORKER, server.url, how, str(seconds)]] * PROCESSES)
    replies = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    total, allowed = sum(reply["admitted"] for reply in replies), 50 + 500 * seconds
    # Processes that hear the word late on a busy machine end late: a tenth of a second of the rate.
    assert total <= allowed * (1 + above) + 50, total
    asked = sorted(moment for reply in replies for moment in reply.pop("asked"))
    assert total >= one_bucket(asked, 500, 50) * 0.9, replies
    assert all(reply["away"] == 0 for reply in replies)


LEASER = """
import asyncio, json, os, sys, time
import redis.asyncio
from gapless.resilience.errors import RateLimited
from gapless.resilience.guard import guard
from gapless.resilience.rate import leased, rate

async def main(url, file, seconds):
    counter = os.open(file, os.O_RDWR | os.O_CREAT)
    client = redis.asyncio.Redis.from_url(url)
    ours = guard("leasers", rate("500/s", burst=50, shared=leased(client)))
    await client.ping()
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    await asyncio.sleep(begin - time.time())
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        try:
            async with ours.enter():
                count += 1
                os.pwrite(counter, b"%d" % count, 0)
        except RateLimited:
            pass
        await asyncio.sleep(0.001)
    print(json.dumps(ours.statistics()["policies"]["rate"]))
    ours.close()
    await client.aclose()

asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""


def test_killed_processes_take_no_more_than_their_leases_with_them(server, tmp_path):
    """Two of four are killed under load: the others have the whole rate at once, and in the end share it in two."""
    seconds = MEMBER_TTL_S + 6.0
    files = [tmp_path / str(number) for number in range(4)]
    begin, workers = began_together([[LEASER, server.url, str(file), str(seconds)] for file in files])

    def count(those: list[Path]) -> tuple[float, int]:
        return time.time() - begin, sum(int(file.read_text() or 0) for file in those)

    time.sleep(begin + 2.0 - time.time())
    [worker.kill() for worker in workers[:2]]
    [worker.communicate() for worker in workers[:2]]
    time.sleep(0.5)
    before_s, before = count(files[2:])
    time.sleep(3.0)
    after_s, after = count(files[2:])
    replies = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers[2:]]
    whole_s, whole = count(files)
    lease = 500 * LEASE_S / 4
    assert 0.93 * 500 * (after_s - before_s) <= after - before <= 1.01 * 500 * (after_s - before_s) + 4 * lease
    assert whole <= 50 + 1.01 * 500 * whole_s + 2 * lease
    assert [reply["processes"] for reply in replies] == [2, 2]
    assert all(reply["away"] == 0 for reply in replies)

"""Leases in pretended processes, with a pretended Redis: whatever is lost or late, never too much is admitted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.resilience.errors import RateLimited
from gapless.resilience.events import SharedStateLost
from gapless.resilience.guard import guard
from gapless.resilience.rate import exact, leased, rate
from gapless.resilience.rate_leases import ANSWER_S, LIFE_LEASES, Leases
from gapless.resilience.rate_local import TokenBuckets
from gapless.resilience.rate_quota import Quota, quota
from gapless.resilience.rate_redis import LEND, TAKE, Names
from gapless.testing.world import FakeWorld


class PretendedRedis:
    """LEND and TAKE in Python; `tests/integration/test_rate_redis.py` runs the true ones."""

    def __init__(self, now) -> None:
        self.now, self.down = now, False
        self.forget()

    def forget(self) -> None:
        self.floor, self.members, self.at = None, {}, {}

    def full_at(self, key, interval, tolerance):
        at = max(self.at.get(key, 0.0), self.now() * 1e6)
        return at if self.floor is None else max(at, self.floor + tolerance - interval)

    def run(self, script, keys, args):
        return self.take(keys, args) if script is TAKE else self.lend(keys, args)

    def take(self, keys, args):
        interval, tolerance = args
        at, now = self.full_at(keys[1], interval, tolerance) + interval, self.now() * 1e6
        if at - now - tolerance > 0.5:
            return math.ceil(at - now - tolerance)
        self.at[keys[1]] = at
        return 0

    def lend(self, keys, args):
        now = self.now() * 1e6
        if args[2] == "2" or (args[2] == "1" and not self.members):
            self.floor = now
        self.members[args[0]] = now
        reply = [len(self.members)]
        for place, key in enumerate(keys[2:]):
            interval, tolerance, want, owed = args[4 + 4 * place : 8 + 4 * place]
            at = max(self.full_at(key, interval, tolerance) + owed * interval, now)
            granted = max(min(want, math.floor((now + tolerance - at) / interval + 1e-6)), 0)
            self.at[key] = at + granted * interval
            reply += [granted, max(math.ceil(self.at[key] + interval - now - tolerance), 0)]
        return reply


class Client:
    """As much of redis.asyncio.Redis as is used."""

    def __init__(self, redis: PretendedRedis) -> None:
        self.redis = redis

    async def __aenter__(self):
        return self

    async def evalsha(self, sha, count, *rest):
        if self.redis.down:
            raise OSError("refused")
        script = TAKE if sha == TAKE.sha else LEND
        return self.redis.run(script, rest[:count], rest[count:])


def make(number: int, limit: Quota, processes: int = 1) -> Leases:
    def alone(now, count):
        mine = limit.share(count)
        return TokenBuckets(mine, now + mine.tolerance_s - mine.interval_s).acquire

    return Leases(
        names=Names("p", "g", "r"),
        process=f"process {number}",
        quota_of=lambda key: limit,
        lease_s=0.1,
        processes=processes,
        longest_s=limit.tolerance_s,
        most_keys=1000,
        alone=alone,
        tell=lambda lost, why: None,
    )


STEPS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ccccrrrl"), st.integers(1, 30)), max_size=150)
"""Which process does what: calls, a round, a round whose answer is lost; and for how many ms nothing happens then."""


@given(STEPS, st.sampled_from(["100/s", "20/s", "1000/s"]), st.integers(8, 60))
def test_processes_never_admit_more_than_redis_knows_of(steps, text, burst):
    limit, now, admitted = quota(text, burst), 100.0, 0
    redis = PretendedRedis(lambda: now)
    processes = [make(number, limit) for number in range(3)]
    for number, act, ms in steps:
        ours = processes[number]
        if act == "c":
            admitted += sum(not ours.acquire("key", now) for _ in range(ms))
        elif wanted := ours.begin(now):
            reply = redis.run(LEND, wanted.keys, wanted.args)
            if act == "r":
                ours.finish(wanted, reply, now)
        if any(each.away for each in processes):
            return  # from here on it is the parts that count: see below
        # What was admitted on credit and not yet charged is bounded by a part of the burst for each process.
        assert admitted <= burst + limit.count / limit.per_s * (now - 100.0) + 3 * max(burst / 8, 1) + 1e-6
        now += ms / 1000


def test_without_redis_a_process_has_its_part_and_no_burst():
    limit, now = quota("100/s"), 5.0
    ours = make(0, limit, processes=4)
    first = sum(not ours.acquire("key", now) for _ in range(50))
    assert first == 2, "on credit: its part of a lease time"
    wanted = ours.begin(now)
    assert wanted is not None
    ours.lost(wanted, "killed", now)
    assert ours.away
    count = sum(not ours.acquire("key", now + ms / 1000) for ms in range(2_000))
    assert 49 <= count <= 51, "25/s"


def test_a_round_without_an_answer_is_given_up_by_the_calls_themselves():
    ours, now = make(0, quota("100/s")), 5.0
    while not ours.acquire("key", now):
        pass
    wanted = ours.begin(now)
    ours.acquire("key", now + ANSWER_S + 0.001)
    assert ours.away
    ours.finish(wanted, [4, 50, 0], now + 0.1)
    assert ours.away, "an answer that comes after that no longer counts"
    assert ours.begin(now + 0.1) is not None, "but it is asked again"


def test_tokens_that_nobody_used_go_back():
    limit, now = quota("100/s", burst=40), 5.0
    redis = PretendedRedis(lambda: now)
    ours = make(0, limit)
    for _ in range(5):
        for _ in range(3):
            ours.acquire("key", now)
        if wanted := ours.begin(now):
            ours.finish(wanted, redis.run(LEND, wanted.keys, wanted.args), now)
        now += 0.01
    held = ours._current["key"].tokens
    assert held > 0
    now += LIFE_LEASES * 0.1
    ours.acquire("key", now)
    assert ours._current["key"].owed == 1 - held


async def test_a_leased_guard_asks_only_while_calls_come_and_tells_when_redis_is_lost():
    world = FakeWorld()
    redis = PretendedRedis(world.now)
    ours, told = guard("shop", rate("100/s", shared=leased(Client(redis))), world=world), []
    ours.subscribe(told.append)

    async def calls(count: int) -> int:
        admitted = 0
        for _ in range(count):
            try:
                async with ours.enter():
                    admitted += 1
            except RateLimited:
                pass
            await world.advance(0.001)
        return admitted

    assert await calls(3_000) == pytest.approx(400, abs=12)
    await world.advance(1.0)
    assert world.pending == 0, "nobody calls, nothing runs"
    redis.down = True
    await calls(300)
    assert ours.statistics()["policies"]["rate"]["away"] == 1
    redis.forget()
    redis.down = False
    await calls(700)
    admitted = await calls(1_000)
    assert admitted <= 110, "without a burst"
    assert [event.lost for event in told if isinstance(event, SharedStateLost)] == [True, False]
    await world.advance(1.0)
    assert world.pending == 0
    ours.close()


async def test_an_exact_guard_goes_on_alone_and_comes_back():
    world = FakeWorld()
    redis = PretendedRedis(world.now)
    ours = guard("shop", rate("10/s", key="{user}", shared=exact(Client(redis))), world=world)

    async def admitted(calls: int) -> int:
        count = 0
        for _ in range(calls):
            try:
                async with ours.enter(user="ann"):
                    count += 1
            except RateLimited:
                pass
            await world.advance(0.01)
        return count

    assert await admitted(30) in (12, 13)
    redis.down = True
    assert await admitted(100) in (10, 11)
    redis.forget()
    redis.down = False
    assert await admitted(100) in (9, 10, 11, 12)
    assert ours.statistics()["policies"]["rate"]["away"] == 0
    ours.close()

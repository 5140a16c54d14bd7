"""Rates: a million keys, the busiest among any number, and four processes on one Redis.

    .venv/bin/python benchmarks/rate.py [--keys 1000000] [--peer-keys 100000] [--seconds 5] [--only keys]

Each column of the first table runs in a process of its own: bytes per key (keys included), µs per acquire while the
keys are new and while they are known, and CPU while nobody calls. The others need redis-server (Debian: redis-server)
and start their own on loopback. Targets: at most 100 bytes per key, p99 at most 10 µs, no idle CPU; hot keys in at most
8 MB with 99 % of the top hundred; exact within 0.5 %, leased within 1 % at a median of at most 2 µs; Redis killed:
local within 50 ms and no call above 5 ms.

Peers that are not installed say so: `make peers` installs them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import random
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests.integration.redis_kit

RATE = 500
BURST = 50
PATIENCE_S = 60
GROUP = 5
"""Calls that come together."""
Acquire = Callable[[str], Any]


def ours() -> Acquire:
    from gapless.resilience.rate_local import TokenBuckets
    from gapless.resilience.rate_quota import quota

    acquire, now = TokenBuckets(quota("100/s")).acquire, time.monotonic
    return lambda key: acquire(key, now())


def ours_long() -> Acquire:
    from gapless.resilience.rate_local import TokenBuckets
    from gapless.resilience.rate_quota import quota

    acquire, now = TokenBuckets(quota("10/min")).acquire, time.monotonic
    return lambda key: acquire(key, now())


def ours_hot() -> Acquire:
    from gapless.resilience.rate_hot import HotBuckets
    from gapless.resilience.rate_quota import quota

    acquire, now = HotBuckets(quota("100/s"), 1_000).acquire, time.monotonic
    return lambda key: acquire(key, now())


def limits_fixed() -> Acquire:
    from limits import parse
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    hit, item = FixedWindowRateLimiter(MemoryStorage()).hit, parse("100/minute")
    return lambda key: hit(item, key)


def throttled_gcra() -> Acquire:
    from throttled import RateLimiterType, Throttled, rate_limiter, store

    kept = store.MemoryStore(options={"MAX_SIZE": 2_000_000})  # its default of 1,024 forgets living keys
    using = RateLimiterType.GCRA.value
    return Throttled(using=using, quota=rate_limiter.per_sec(100, burst=100), store=kept).limit


def aiolimiter_each() -> Acquire:
    from aiolimiter import AsyncLimiter

    kept: dict[str, AsyncLimiter] = {}

    def acquire(key: str) -> bool:
        if (found := kept.get(key)) is None:
            found = kept[key] = AsyncLimiter(100, 1)
        return found.has_capacity()

    return acquire


def pyrate_each() -> Acquire:
    from pyrate_limiter import Limiter, Rate

    kept: dict[str, Limiter] = {}

    def acquire(key: str) -> Any:
        if (found := kept.get(key)) is None:
            found = kept[key] = Limiter(Rate(100, 1000))
        return found.try_acquire(key, blocking=False)

    return acquire


COLUMNS: dict[str, Callable[[], Acquire]] = {
    "gapless 100/s": ours,
    "gapless 10/min": ours_long,
    "gapless hot": ours_hot,
    "limits fixed": limits_fixed,
    "throttled GCRA": throttled_gcra,
    "aiolimiter": aiolimiter_each,
    "pyrate-limiter": pyrate_each,
}


MOST_KEYS = {"pyrate-limiter": 1_000}
"""What a column can hold within a minute: some 30 kB and 200 µs for each new key."""


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def quantiles(samples: Sequence[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {name: ordered[int(len(ordered) * part)] * 1e6 for name, part in (("p50", 0.5), ("p99", 0.99))}


async def one_column(name: str, keys: int) -> dict[str, Any]:
    """Memory, latencies and idle CPU of one column. Keys are made as they are used, as requests do."""
    acquire, clock = COLUMNS[name](), time.perf_counter
    acquire("the first")
    gc.collect()
    fresh, known = array("d", bytes(8 * keys)), array("d", bytes(8 * min(keys, 200_000)))
    before = resident()
    for number in range(keys):
        key = f"user:{number:09d}"
        began = clock()
        acquire(key)
        fresh[number] = clock() - began
    memory = resident() - before
    dice = random.Random(1)
    for number in range(len(known)):
        key = f"user:{dice.randrange(keys):09d}"
        began = clock()
        acquire(key)
        known[number] = clock() - began
    cpu = time.process_time()
    time.sleep(1.0)
    idle = time.process_time() - cpu
    fresh_us, known_us = quantiles(fresh), quantiles(known)
    return {"bytes": memory / keys, "MB": memory / 1e6, "new": fresh_us, "known": known_us, "idle": idle}


def show_keys(keys: int, peer_keys: int) -> None:
    print(
        f"{'':18}{'keys':>10}{'bytes/key':>11}{'MB':>8}{'new p50/p99 µs':>18}{'known p50/p99 µs':>18}{'idle CPU':>10}"
    )
    for name in COLUMNS:
        count = keys if name.startswith("gapless") else min(peer_keys, MOST_KEYS.get(name, peer_keys))
        argv = [sys.executable, __file__, "--column", name, "--keys", str(count)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            print(f"{name:18}{count:>10,}  gave up after {PATIENCE_S} s")
            continue
        if done.returncode:
            absent = "ModuleNotFoundError" in done.stderr
            print(f"{name:18}{'not installed' if absent else done.stderr.strip().splitlines()[-1]}")
            continue
        row = json.loads(done.stdout)
        new, known = (f"{row[each]['p50']:.2f} / {row[each]['p99']:.2f}" for each in ("new", "known"))
        figures = f"{row['bytes']:>11.1f}{row['MB']:>8.1f}{new:>18}{known:>18}{row['idle']:>10.1%}"
        print(f"{name:18}{count:>10,}{figures}")


def show_recall(calls: int = 600_000, ranks: int = 1_000_000) -> None:
    from gapless.resilience.rate_hot import HotBuckets
    from gapless.resilience.rate_quota import quota

    weights = list(itertools.accumulate((rank + 1) ** -1.1 for rank in range(ranks)))
    for seed in (1, 2, 3):
        stream = random.Random(seed).choices(range(ranks), cum_weights=weights, k=calls)
        hot = HotBuckets(quota("100/s"), 1_000)
        began = time.process_time()
        for number, key in enumerate(stream):
            hot.acquire(key, number * 1e-5)
        cost = (time.process_time() - began) / calls * 1e6
        wanted = {str(key) for key, _ in Counter(stream).most_common(100)}
        found, first = ({name for name, _ in hot.hottest(count)} for count in (1_000, 100))
        print(
            f"seed {seed}: {len(wanted & found)} of the top 100 have a bucket, {len(wanted & first)} are named first;"
            f" {len(set(stream)):,} keys, {cost:.2f} µs per call"
        )


async def calls_of(how: str, client: Any) -> Callable[[], Any]:
    """What a worker calls: returns whether it was admitted."""
    if how.startswith("gapless"):
        from gapless.resilience.errors import RateLimited
        from gapless.resilience.guard import guard
        from gapless.resilience.rate import exact, leased, rate

        shared = {"exact": exact, "leased": leased}[how.split()[1]](client)
        layer: Any = guard("benchmark", rate(f"{RATE}/s", burst=BURST, shared=shared)).layers()["rate"]
        if how.endswith("leased"):
            acquire, now = layer.acquirer(), time.monotonic

            async def decide() -> bool:
                return acquire("", now()) == 0.0

            return decide

        async def admit() -> bool:
            try:
                await layer.admit("")
            except RateLimited:
                return False
            return True

        return admit
    from limits import parse
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter

    limiter, item = (
        MovingWindowRateLimiter(RedisStorage(f"async+{_url(client)}", implementation="redispy")),
        parse(f"{RATE}/second"),
    )

    async def hit() -> bool:
        return bool(await limiter.hit(item, "benchmark"))

    return hit


def _url(client: Any) -> str:
    wanted = client.connection_pool.connection_kwargs
    return f"redis://{wanted['host']}:{wanted['port']}/0"


async def worker(how: str, url: str, seconds: float, begin: float) -> dict[str, Any]:
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(url)
    call, clock, times, admitted = await calls_of(how, client), time.perf_counter, [], []
    await client.ping()
    await asyncio.sleep(begin - time.time())
    while (now := time.time()) < begin + seconds:
        for _ in range(GROUP):
            began = clock()
            if await call():
                admitted.append(now - begin)
            times.append(clock() - began)
        await asyncio.sleep(0.002)
    await client.aclose()
    return {"admitted": admitted, "times": times}


def show_shared(seconds: float, processes: int) -> None:
    from tests.integration.redis_kit import RedisServer

    print(
        f"{processes} processes, {RATE}/s, burst {BURST}, {seconds:g} s; error beside burst + rate · time, and steady"
    )
    for how in ("gapless exact", "gapless leased", "limits moving"):
        with RedisServer() as server:
            begin = time.time() + 2.5
            argv = [sys.executable, __file__, "--worker", how, server.url, str(seconds), str(begin)]
            running = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(processes)]
            outputs = [each.communicate() for each in running]
        if any(each.returncode for each in running):
            absent = b"ModuleNotFoundError" in outputs[0][1]
            print(f"{how:16}{'not installed' if absent else outputs[0][1].decode().splitlines()[-1]}")
            continue
        replies = [json.loads(output) for output, _ in outputs]
        moments = sorted(itertools.chain.from_iterable(reply["admitted"] for reply in replies))
        times = quantiles(list(itertools.chain.from_iterable(reply["times"] for reply in replies)))
        allowed = (RATE if how.startswith("limits") else BURST) + RATE * seconds
        steady = sum(1.0 <= at < seconds - 0.5 for at in moments) / (RATE * (seconds - 1.5)) - 1
        error = f"{len(moments) / allowed - 1:+.2%} / {steady:+.2%}"
        print(f"{how:16}{error:>20}   p50 {times['p50']:8.2f} µs   p99 {times['p99']:8.2f} µs")


async def outage(how: str) -> str:
    import redis.asyncio
    from tests.integration.redis_kit import RedisServer

    from gapless.resilience.errors import RateLimited
    from gapless.resilience.guard import guard
    from gapless.resilience.rate import leased, rate

    with RedisServer() as server:
        client = redis.asyncio.Redis.from_url(server.url)
        ours = guard("outage", rate(f"{RATE}/s", burst=BURST, shared=leased(client)))
        noticed, longest, counts = 0.0, 0.0, [0, 0, 0]
        spans = (1.0, 2.0, 2.0)
        for phase, span in enumerate(spans):
            if phase:
                server.start() if phase == 2 else getattr(server, how)()
            began = time.perf_counter()
            while (now := time.perf_counter()) < began + span:
                try:
                    async with ours.enter():
                        counts[phase] += 1
                except RateLimited:
                    pass
                if phase == 1:
                    longest = max(longest, time.perf_counter() - now)
                    if not noticed and ours.statistics()["policies"]["rate"]["away"]:
                        noticed = time.perf_counter() - began
                await asyncio.sleep(0.001)
            if phase == 1:
                server.kill()
        ours.close()
        await client.aclose()
    first = f"{how:8} local after {noticed * 1e3:.1f} ms, longest call {longest * 1e3:.2f} ms"
    rates = ", ".join(f"{count / span:.0f}/s" for count, span in zip(counts, spans, strict=True))
    return f"{first}; with Redis, without, again: {rates}"


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--keys", type=int, default=1_000_000)
    options.add_argument("--peer-keys", type=int, default=100_000)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--processes", type=int, default=4)
    options.add_argument("--only", choices=("keys", "recall", "shared", "outage"))
    options.add_argument("--column", help=argparse.SUPPRESS)
    options.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.column:
        return print(json.dumps(asyncio.run(one_column(given.column, given.keys))))
    if given.worker:
        how, url, seconds, begin = given.worker
        return print(json.dumps(asyncio.run(worker(how, url, float(seconds), float(begin)))))
    parts: dict[str, Callable[[], object]] = {
        "keys": lambda: show_keys(given.keys, given.peer_keys),
        "recall": show_recall,
        "shared": lambda: show_shared(given.seconds, given.processes),
        "outage": lambda: [print(asyncio.run(outage(how))) for how in ("kill", "freeze")],
    }
    for name, part in parts.items():
        if given.only in (None, name):
            print(f"\n{name}")
            part()
    return None


if __name__ == "__main__":
    main()

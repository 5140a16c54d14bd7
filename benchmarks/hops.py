"""Deadlines and retries over three real hops: processes that call each other over HTTP, with guards and clients.

    .venv/bin/python benchmarks/hops.py [--calls 40] [--outage-calls 2000]

- A caller gives 400 ms to something that takes 5 s. Late: what passes after its end until the caller has its error, and
  until each hop has ended its part. Target: 20 ms at most (median); no hop begins anything afterwards.
- The last side fails every call. Amplification: requests that it sees for each call, when one hop asks again and when
  all three do, with a budget (target: 1.2) and without. What budgets have saved up (`burst`: 10) comes on top of their
  share once: it is spent by `--warm-up` calls, which are told apart. The shares of hops would multiply, but that a hop
  whose attempts were in vain says so on its answer (`x-gapless-retried`); without that: `deaf`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests.integration

from tests.integration.test_guard_hops import HOP, Hops

from gapless.core.errors import Unavailable
from gapless.resilience.deadline_layer import deadline
from gapless.resilience.errors import DeadlineExceeded
from gapless.resilience.guard import guard
from gapless.service.client import Client

LIMIT_S = 0.4
RELAY = """
import os, sys, json
from gapless import Service, Transient, guard, ratio, retry
from gapless.resilience import pushback
from gapless.service.client import Client
from gapless.service.kit import load

HOW = json.loads(os.environ["HOW"])
following = Client("following", endpoints=[os.environ["FOLLOWING"]])
budget = ratio(0.2, floor_per_s=0.0) if HOW["budget"] else ratio(1.0, floor_per_s=1e9, burst=1e9)
again = retry(attempts=3, idempotent=True, base=0.001, cap=0.002, budget=budget)
hop = guard("hop", *([again] if os.environ["PLACE"] in HOW["retries"] else []))

@hop
async def work():
    answer = await following.post("/work")
    if answer.status >= 500:
        raise Transient(f"it answered {answer.status}")

async def app(scope, receive, send):
    if HOW["deaf"]:
        pushback.served.set(None)  # says nothing to its caller
    try:
        await work()
        status = 200
    except Exception:
        status = 500
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

service = Service("hop", app)
if __name__ == "__main__":
    import uvicorn
    uvicorn.run(load("hop:service"), port=int(sys.argv[1]), log_level="error", lifespan="on")
"""


@contextlib.asynccontextmanager
async def hops(code: str, last: str = "", **variables: str) -> AsyncIterator[Hops]:
    folder = Path(tempfile.mkdtemp(prefix="hops-"))
    running = Hops(folder, code, last, variables)
    try:
        await running.wait_ready()
        yield running
    finally:
        running.end()
        shutil.rmtree(folder, ignore_errors=True)


async def lateness(calls: int) -> None:
    late: list[float] = []
    async with hops(HOP) as running, Client("first", endpoints=[f"127.0.0.1:{running.ports[0]}"]) as client:

        @guard("caller", deadline(LIMIT_S))
        async def ask(seconds: float) -> int:
            return (await client.post(f"/work?{seconds}")).status

        await client.post("/work?0.0")  # imports what the hops need
        loop = asyncio.get_running_loop()
        for _ in range(calls):
            began = loop.time()
            with contextlib.suppress(DeadlineExceeded, Unavailable):
                await ask(5.0)
            late.append(loop.time() - began - LIMIT_S)
        await asyncio.sleep(0.3)
        print(f"the caller's own 400 ms, {calls} calls: {shown(late)}")
        for number in range(3):
            told = running.told(number)
            over = [-each["left_s"] for each in told if each["what"] == "ended"][1:]
            begun = [each["left_s"] for each in told if each["what"] == "began"][1:]
            print(f"  hop {number + 1} ended: {shown(over)}; begun afterwards: {sum(each <= 0 for each in begun)}")


def shown(late: list[float]) -> str:
    ordered = sorted(each * 1e3 for each in late)
    return f"{statistics.median(ordered):+.1f} ms late in the median, {ordered[int(len(ordered) * 0.95)]:+.1f} at p95"


@contextlib.asynccontextmanager
async def outage() -> AsyncIterator[tuple[str, Callable[[], int]]]:
    """A side that answers 500 to everything: its address, and how many requests it has seen."""
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                seen += 1
                writer.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}", lambda: seen
    server.close()


async def amplification(
    retries: str, *, budget: bool, calls: int, warm_up: int, deaf: bool = False
) -> tuple[float, int]:
    """Requests per call once the savings are spent, and how many more than that there were before."""
    how = json.dumps({"retries": retries, "budget": budget, "deaf": deaf})
    async with outage() as (last, seen), hops(RELAY, last, HOW=how) as running:
        async with Client("first", endpoints=[f"127.0.0.1:{running.ports[0]}"]) as client:
            await ask_in_vain(client, warm_up)
            before = seen()
            await ask_in_vain(client, calls)
            steady = (seen() - before) / calls
        return steady, round(before - steady * warm_up)


async def ask_in_vain(client: Client, calls: int) -> None:
    for _ in range(calls // 20):
        await asyncio.gather(*(client.post("/work") for _ in range(20)))


async def main(given: Any) -> None:
    await lateness(given.calls)
    many, few, warm_up = given.outage_calls, given.outage_calls // 10, given.warm_up
    for title, retries in (("the last hop asks again", "2"), ("all three hops ask again", "012")):
        steady, once = await amplification(retries, budget=True, calls=many, warm_up=warm_up)
        print(f"total outage, {title}: {steady:.3f} requests per call, and {once} once, which had been saved up")
        for name, budget, deaf in (("deaf", True, True), ("without a budget", False, False)):
            other, _ = await amplification(retries, budget=budget, calls=few, warm_up=warm_up, deaf=deaf)
            print(f"  {name}: {other:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--outage-calls", type=int, default=2_000)
    parser.add_argument("--warm-up", type=int, default=200)
    asyncio.run(main(parser.parse_args()))

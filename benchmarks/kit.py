"""What the kit adds to a request: a bare ASGI app against the same app wrapped, in the same run.

    .venv/bin/python benchmarks/kit.py

Prints µs per request for each, and the difference. The targets: at most 15 µs for the kit with metrics; for idempotency
on SQLite 150 µs for a new key and 80 µs for a replay.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from gapless.consistency.claims import Claims
from gapless.consistency.idempotency import Idempotency
from gapless.core.world import RealWorld
from gapless.service.identity import Identity
from gapless.service.kit import Service

REQUESTS = 20_000
ROUNDS = 7
TARGET_US = 15.0
KEYED = 2_000

HEADERS = [
    (b"host", b"orders:8080"),
    (b"user-agent", b"benchmark"),
    (b"accept", b"*/*"),
    (b"content-type", b"application/json"),
    (b"x-request-id", b"0f3c"),
    (b"x-user-id", b"ann"),
    (b"x-gapless-deadline-ms", b"1500"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY = {"type": "http.response.body", "body": b"hello"}


async def bare(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


async def receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None: ...


async def measure(app: Any, path: str = "/") -> float:
    """µs per request."""
    began = time.perf_counter()
    for _ in range(REQUESTS):
        await app({"type": "http", "method": "GET", "path": path, "headers": HEADERS}, receive, send)
    return (time.perf_counter() - began) / REQUESTS * 1e6


async def keyed(app: Any, fresh: bool) -> float:
    """µs per POST with a key of its own (fresh), or with one that is replayed."""
    numbers = count() if fresh else iter(lambda: 0, 1)
    run = time.perf_counter_ns()
    began = time.perf_counter()
    for _ in range(KEYED):
        headers = [*HEADERS, (b"idempotency-key", b"%d-%d" % (run if fresh else 0, next(numbers)))]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
        await app(scope, receive, send)
    return (time.perf_counter() - began) / KEYED * 1e6


async def idempotency() -> None:
    world = RealWorld()
    with tempfile.TemporaryDirectory() as directory:
        async with Claims(Path(directory) / "claims.db", world) as claims:
            app = Idempotency(bare, claims, world)
            rounds = [(await keyed(app, True), await keyed(app, False)) for _ in range(ROUNDS)]
    new, replayed = (min(column) for column in zip(*rounds, strict=True))
    print(f"idempotency on SQLite: a new key +{new:.0f} µs (target 150), a replay +{replayed:.0f} µs (target 80)")


async def main() -> None:
    service = Service("orders", bare, identity=Identity(service="orders", release="1.4.0", instance="orders-1"))
    app = service.app
    rounds = [(await measure(bare), await measure(app), await measure(app, "/readyz")) for _ in range(ROUNDS)]
    plain, wrapped, probe = (min(column) for column in zip(*rounds, strict=True))
    print(f"bare {plain:.2f} µs, in the kit {wrapped:.2f} µs ({wrapped / plain:.1f}x): +{wrapped - plain:.2f} µs")
    print(f"a probe {probe:.2f} µs; target for the kit: +{TARGET_US:.0f} µs at most")
    await idempotency()


asyncio.run(main())

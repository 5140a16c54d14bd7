"""What the kit adds to a request: a bare ASGI app against the same app wrapped, in the same run.

    .venv/bin/python benchmarks/kit.py

Prints µs per request for each, and the difference. The target is at most 15 µs with metrics.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gapless.service.identity import Identity
from gapless.service.kit import Service

REQUESTS = 20_000
ROUNDS = 7
TARGET_US = 15.0

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


async def main() -> None:
    service = Service("orders", bare, identity=Identity(service="orders", release="1.4.0", instance="orders-1"))
    rounds = [
        (await measure(bare), await measure(service.app), await measure(service.app, "/readyz")) for _ in range(ROUNDS)
    ]
    plain, wrapped, probe = (min(column) for column in zip(*rounds, strict=True))
    print(f"bare {plain:.2f} µs, in the kit {wrapped:.2f} µs ({wrapped / plain:.1f}x): +{wrapped - plain:.2f} µs")
    print(f"a probe {probe:.2f} µs; target for the kit: +{TARGET_US:.0f} µs at most")


asyncio.run(main())

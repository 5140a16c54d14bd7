"""What it costs a request to be seen: our whole stack beside the usual assembly, on the same bare Starlette app.

    make peers && .venv/bin/python benchmarks/observe.py

Ours: the kit (metrics by route, request id, deadline), one access line through our log, traces. Usual: OpenTelemetry's
ASGI middleware with a null exporter, prometheus-fastapi-instrumentator (or starlette-exporter), structlog by stdlib.
Each request writes one line to /dev/null. Rounds are interleaved; µs are the medians of all requests of the best round,
and the spread is that of the rounds. Targets: log + metrics + 1 % of the traces at most 20 µs, with all traces 60 µs.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import logging
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

REQUESTS = 3_000
ROUNDS = 7
TARGETS_US = {0.01: 20.0, 1.0: 60.0}
HEADERS = [(b"host", b"orders:8080"), (b"user-agent", b"benchmark"), (b"accept", b"*/*"), (b"x-user-id", b"ann")]
NULL = os.open(os.devnull, os.O_WRONLY)


def bare() -> Any:
    async def order(request: Any) -> PlainTextResponse:
        return PlainTextResponse("fine")

    return Starlette(routes=[Route("/orders/{id}", order)])


def ours(sample: float, *, logs: bool = True) -> Any:
    os.environ["GAPLESS_TRACING"] = json.dumps({"sample": sample})
    from gapless.observe import log
    from gapless.server.http.access import Access
    from gapless.service.identity import Identity
    from gapless.service.kit import Service
    from gapless.service.log_context import request_context

    handler = log.Unblocked(NULL)
    handler.setFormatter(log.JsonLines("orders", "1.4.0", "orders-1", request_context))
    logger = logging.getLogger("gapless.access")
    logger.handlers[:], logger.propagate, logger.level = [handler], False, logging.INFO
    inner = Service("orders", bare(), identity=Identity(service="orders", release="1.4.0", instance="orders-1"))
    app, access = inner.app, Access()

    async def served(scope: Any, receive: Any, send: Any) -> None:
        """What the server does beside the kit: tells the access log of each response when it is complete."""
        cycle = Cycle(scope)

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                cycle.status = message["status"]
            await send(message)
            if message["type"] == "http.response.body":
                access.note(cycle, time.monotonic())

        await app(scope, receive, sending)

    return served if logs else app


class Cycle:
    def __init__(self, scope: Any) -> None:
        self.scope, self.status, self.sent, self.began, self.request_id = scope, 0, 4, time.monotonic(), ""


def usual_traces(app: Any, sample: float) -> Any:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample)))
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return OpenTelemetryMiddleware(app, tracer_provider=provider)


def usual_log(app: Any) -> Any:
    """structlog through stdlib, as its documentation shows it."""
    import structlog

    handler = logging.StreamHandler(os.fdopen(os.dup(NULL), "w"))
    chain = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper("iso"),
    ]
    render = structlog.processors.JSONRenderer()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render]
        )
    )
    logger = logging.getLogger("usual.access")
    logger.handlers[:], logger.propagate, logger.level = [handler], False, logging.INFO
    structlog.configure(
        processors=[*chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    access = structlog.get_logger("usual.access")

    async def logged(scope: Any, receive: Any, send: Any) -> None:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id="0f3c", user="ann")
        began, status = time.monotonic(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await app(scope, receive, sending)
        took = round((time.monotonic() - began) * 1000, 3)
        access.info("request", method=scope["method"], path=scope["path"], status=status, duration_ms=took)

    return logged


def instrumentator(app: Any) -> Any:
    from prometheus_client import CollectorRegistry
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator(registry=CollectorRegistry()).instrument(app)
    return app


def exporter(app: Any) -> Any:
    from starlette_exporter import PrometheusMiddleware

    app.add_middleware(PrometheusMiddleware, prefix="bench", group_paths=True)
    return app


VARIANTS: dict[str, Callable[[], Any]] = {
    "bare app": bare,
    "ours: metrics, no log, no trace": lambda: ours(0.0, logs=False),
    "ours: log + metrics": lambda: ours(0.0),
    "ours: log + metrics + 1 % traces": lambda: ours(0.01),
    "ours: log + metrics + 100 % traces": lambda: ours(1.0),
    "usual (instrumentator): + 1 % traces": lambda: usual_log(usual_traces(instrumentator(bare()), 0.01)),
    "usual (instrumentator): + 100 % traces": lambda: usual_log(usual_traces(instrumentator(bare()), 1.0)),
    "usual (starlette-exporter): + 100 % traces": lambda: usual_log(usual_traces(exporter(bare()), 1.0)),
}


async def receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None: ...


async def measure(app: Any) -> tuple[float, float]:
    """(median µs of a request, µs of CPU for each, threads included)."""
    took = []
    cpu = time.process_time()
    for n in range(REQUESTS):
        path = f"/orders/{n % 50}"
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": HEADERS,
        }
        scope |= {
            "root_path": "",
            "scheme": "http",
            "server": ("orders", 8080),
            "client": ("127.0.0.1", 4711),
            "http_version": "1.1",
        }
        began = time.perf_counter()
        await app(scope, receive, send)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6, (time.process_time() - cpu) / REQUESTS * 1e6


async def stacks() -> None:
    apps = {name: make() for name, make in VARIANTS.items()}
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in apps}
    for _ in range(ROUNDS):
        for name, app in apps.items():
            rounds[name].append(await measure(app))
    base_p50, base_cpu = (min(column) for column in zip(*rounds["bare app"], strict=True))
    print(f"{'':44} {'p50 added':>10} {'spread':>15} {'CPU added':>10}")
    for name, found in rounds.items():
        medians, cpus = zip(*found, strict=True)
        spread = f"{min(medians) - base_p50:.1f}…{max(medians) - base_p50:.1f}"
        print(f"{name:44} {min(medians) - base_p50:7.1f} µs {spread:>15} {min(cpus) - base_cpu:7.1f} µs")
    targets = ", ".join(f"{share:.0%} traces ≤ {most:.0f} µs" for share, most in TARGETS_US.items())
    print(f"\nbare: {base_p50:.1f} µs. Targets for ours, p50: {targets}")


def lines() -> None:
    """One line with its fields, by the ways there are; the writing itself left out."""
    import orjson
    import structlog

    from gapless.observe import log

    fields = {"method": "GET", "path": "/orders/7", "status": 200, "duration_ms": 1.25, "user": "ann"}

    class Nowhere(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            self.format(record)

    class OrJson(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            line = {
                "time": record.created,
                "level": record.levelname,
                "message": record.getMessage(),
                **log.extras(record),
            }
            return orjson.dumps(line).decode()

    def stdlib(formatter: logging.Formatter) -> Callable[[], None]:
        logger = logging.Logger("bench")  # noqa: LOG001 - of its own, below no root
        handler = Nowhere()
        handler.setFormatter(formatter)
        logger.addHandler(handler)
        return lambda: logger.info("request", extra=fields)

    class Bytes:
        def msg(self, line: bytes) -> None: ...

        info = msg

    chain = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper("iso"),
    ]
    render = structlog.processors.JSONRenderer(serializer=lambda value, **_: orjson.dumps(value))
    fast = structlog.wrap_logger(
        Bytes(), processors=[*chain, render], wrapper_class=structlog.make_filtering_bound_logger(20)
    ).bind()
    ways = {
        "ours (stdlib, msgspec, context, redaction)": stdlib(log.JsonLines("orders", "1", "a")),
        "stdlib + orjson, neither context nor redaction": stdlib(OrJson()),
        "structlog + orjson, straight to bytes": lambda: fast.info("request", **fields),
    }
    print(f"\n{'a log line':48} µs")
    for name, way in ways.items():
        best = min(_timed(way) for _ in range(ROUNDS))
        print(f"{name:48} {best:.1f}")


def _timed(way: Callable[[], None], times: int = 5_000) -> float:
    began = time.perf_counter()
    for _ in range(times):
        way()
    return (time.perf_counter() - began) / times * 1e6


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "").parse_args()
    peers = ("prometheus_fastapi_instrumentator", "starlette_exporter", "structlog", "orjson")
    missing = [name for name in peers if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)} not found: make peers")
    asyncio.run(stacks())
    lines()


if __name__ == "__main__":
    main()

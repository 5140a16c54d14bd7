"""`/livez`, `/readyz`, `/startupz` and `/healthz`: one JSON shape, 200 or 503, read from what is already known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from gapless.core.phase import Phase
from gapless.service.asgi import App, Receive, Scope, Send, respond
from gapless.service.checks import Result
from gapless.service.identity import Identity

PATHS = frozenset({"/livez", "/readyz", "/startupz", "/healthz"})


def moment(at: float) -> str:
    """RFC 3339, UTC, milliseconds; empty for a moment that never was."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at else ""


def check_report(result: Result) -> dict[str, Any]:
    return {
        "status": "pass" if result.passed else "fail",
        "latency_ms": round(result.latency_s * 1000, 3),
        "since": moment(result.since_at),
        "detail": result.detail,
    }


def report(identity: Identity, phase: Phase, results: Mapping[str, Result], now_at: float) -> dict[str, Any]:
    """`{status, service, release, instance, checks: {name: {status, latency_ms, since, detail}}, time}`; `status` is
    the phase, a check's status `pass` or `fail`."""
    return {
        "status": phase.value,
        "service": identity.service,
        "release": identity.release,
        "instance": identity.instance,
        "checks": {name: check_report(result) for name, result in results.items()},
        "time": moment(now_at),
    }


def probe(passes: Callable[[], bool], health: Callable[[], dict[str, Any]]) -> App:
    """The ASGI app of one probe."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        body = json.dumps(health()).encode() + b"\n"
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await respond(send, 200 if passes() else 503, body, headers)

    return answer

"""`core.ports.Signals` and `Queries` of a Prometheus, asked over its HTTP API."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from gapless.core.errors import SignalsUnavailable
from gapless.core.ports import Selection, Series, World
from gapless.observe.promql import promql

LIMIT_S = 10.0
REMEDY = "Look whether it runs at the address in gapless.yaml (metrics.prometheus)."


class PrometheusSignals:
    """`url`: as far as where `/api/v1` begins."""

    def __init__(self, url: str, world: World) -> None:
        self._url = url.rstrip("/")
        self._world = world
        self._pool: Any = None

    async def series(self, selection: Selection, since_at: float, until_at: float, step_s: float) -> Sequence[Series]:
        """See `core.ports.Signals`."""
        query = {"start": f"{since_at:.3f}", "end": f"{until_at:.3f}", "step": f"{step_s:.3f}"}
        found = await self._ask("query_range", {"query": promql(selection), **query})
        return answered(found, "values")

    async def latest(self, selection: Selection, at: float | None = None) -> Sequence[Series]:
        """See `core.ports.Signals`."""
        moment = self._world.time() if at is None else at
        found = await self._ask("query", {"query": promql(selection), "time": f"{moment:.3f}"})
        return answered(found, "value")

    async def instant(self, query: str) -> float | None:
        """See `core.ports.Queries`."""
        found = answered(await self._ask("query", {"query": query, "time": f"{self._world.time():.3f}"}), "value")
        if len(found) > 1:
            raise SignalsUnavailable(f"{query} has {len(found)} values", "Put them together, for instance by sum(…).")
        return found[0].points[0][1] if found else None

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def _ask(self, what: str, query: Mapping[str, str]) -> list[Any]:
        import httpcore

        if self._pool is None:
            self._pool = httpcore.AsyncConnectionPool(max_connections=8, keepalive_expiry=30.0, retries=1)
        limits = {"timeout": {"connect": LIMIT_S, "read": LIMIT_S, "write": LIMIT_S, "pool": LIMIT_S}}
        form = {"content-type": "application/x-www-form-urlencoded"}
        try:
            answer = await self._pool.request(
                "POST",
                f"{self._url}/api/v1/{what}",
                headers=form,
                content=urlencode(query).encode(),
                extensions=limits,
            )
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            why = str(error) or type(error).__name__
            raise SignalsUnavailable(f"Prometheus at {self._url} does not answer: {why}", REMEDY) from error
        return self._read(answer.status, answer.content)

    def _read(self, status: int, content: bytes) -> list[Any]:
        try:
            answer = json.loads(content)
            if answer["status"] == "success":
                return list(answer["data"]["result"])
            why = answer["error"]
        except (ValueError, KeyError, TypeError):
            why = content[:200].decode(errors="replace")
        raise SignalsUnavailable(f"Prometheus at {self._url} answered {status}: {why}", REMEDY)


def answered(result: Sequence[Mapping[str, Any]], points: str) -> list[Series]:
    """Its JSON as series, sorted by labels; what is not a number is left out."""
    found = []
    for one in result:
        pairs = one[points] if points == "values" else [one[points]]
        numbers = tuple((float(at), float(value)) for at, value in pairs if not math.isnan(float(value)))
        if numbers:
            found.append(Series(labels=dict(one["metric"]), points=numbers))
    return sorted(found, key=lambda series: sorted(series.labels.items()))

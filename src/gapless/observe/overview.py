"""How services are now, in the figures that people look at first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gapless.core.model import DerivedMetric, Service
from gapless.core.ports import Selection, Series, Signals
from gapless.observe import derived

OVER_S = 60.0
FRESH_S = 15.0
"""A gauge that is older is of an instance that has gone."""
BY = ("service", "release")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one release, over the last minute. None: not known. `rate` in requests per second, `errors` their share (0…1),
    latencies in seconds, `cpu` in processors, `memory` in bytes. `derived`: by the names of gapless.yaml."""

    service: str
    release: str
    rate: float | None = None
    errors: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None
    in_flight: float | None = None
    cpu: float | None = None
    memory: float | None = None
    derived: Mapping[str, float] | None = None


REQUESTS = ("gapless_requests_total", "gapless_request_duration_seconds")
GATEWAY = ("gapless_gateway_requests_total", "gapless_gateway_request_duration_seconds")


async def overview(signals: Signals, services: Iterable[Service], at: float | None = None) -> list[Figures]:
    """A row for each release that is known to the metrics, by service and release. Requests are what the instances
    counted, and for those that do not count what the gateway did. Raises SignalsUnavailable."""
    services = list(services)
    tables = await asyncio.gather(*(_table(signals, selection, at) for selection in _asked().values()))
    named = dict(zip(_asked(), tables, strict=True))
    rows = sorted({key for table in tables for key in table if key[0] in {service.name for service in services}})
    own = await asyncio.gather(*(_derived(signals, service.metrics.values(), service.name, at) for service in services))
    made = {service.name: table for service, table in zip(services, own, strict=True)}
    return [_figures(key, named, made.get(key[0], {})) for key in rows]


Key = tuple[str, str]


def _asked() -> dict[str, Selection]:
    found = {}
    for prefix, (total, took) in (("own", REQUESTS), ("gateway", GATEWAY)):
        found[f"{prefix} rate"] = _rate(total)
        found[f"{prefix} errors"] = _rate(total, {"status": "5xx"})
        for q in (0.5, 0.99):
            found[f"{prefix} {q}"] = Selection(metric=took, by=BY, of="quantile", q=q, over_s=OVER_S)
    found["in flight"] = Selection(metric="gapless_requests_in_flight", by=BY, over_s=FRESH_S)
    found["cpu"] = _rate("process_cpu_seconds_total")
    found["memory"] = Selection(metric="process_resident_memory_bytes", by=BY, over_s=FRESH_S)
    return found


def _rate(metric: str, where: Mapping[str, str] | None = None) -> Selection:
    return Selection(metric=metric, where=where or {}, by=BY, of="rate", over_s=OVER_S)


async def _table(signals: Signals, selection: Selection, at: float | None) -> dict[Key, float]:
    return _by_release(await signals.latest(selection, at))


def _by_release(found: Sequence[Series]) -> dict[Key, float]:
    return {
        (series.labels["service"], series.labels.get("release", "")): series.points[-1][1]
        for series in found
        if "service" in series.labels
    }


async def _derived(
    signals: Signals, metrics: Iterable[DerivedMetric], service: str, at: float | None
) -> dict[Key, dict[str, float]]:
    rows: dict[Key, dict[str, float]] = {}
    for metric in metrics:
        for key, value in _by_release(
            await derived.latest(signals, metric, {"service": service}, BY, OVER_S, at)
        ).items():
            rows.setdefault(key, {})[metric.name] = value
    return rows


def _figures(key: Key, tables: Mapping[str, Mapping[Key, float]], made: Mapping[Key, Mapping[str, float]]) -> Figures:
    who = "own" if key in tables["own rate"] else "gateway"
    rate = tables[f"{who} rate"].get(key)
    return Figures(
        service=key[0],
        release=key[1],
        rate=rate,
        errors=tables[f"{who} errors"].get(key, 0.0) / rate if rate else None,
        p50_s=tables[f"{who} 0.5"].get(key),
        p99_s=tables[f"{who} 0.99"].get(key),
        in_flight=tables["in flight"].get(key),
        cpu=tables["cpu"].get(key),
        memory=tables["memory"].get(key),
        derived=made.get(key, {}),
    )

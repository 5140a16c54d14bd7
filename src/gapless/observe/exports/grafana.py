"""A dashboard of a system for Grafana: the figures that people look at first, then what explains them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gapless.core.model import DerivedMetric, Service

SCHEMA = 39
"""Grafana 11; newer ones migrate it by themselves."""
COLUMNS = 24
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Graph(NamedTuple):
    """`lines`: (expression, legend)."""

    title: str
    unit: str
    lines: Sequence[tuple[str, str]]


_OWN = 'service=~"$service"'
_BY = "service, release"
_RATE = "$__rate_interval"


def _p(q: float, metric: str) -> str:
    return f"histogram_quantile({q}, sum by (le, {_BY}) (rate({metric}_bucket{{{_OWN}}}[{_RATE}])))"


def _share(part: str, whole: str) -> str:
    """A counter appears with its first event: what is not there while the whole is, is 0 and not a gap."""
    return f"({part} or {whole} * 0) / {whole}"


_REQUESTS = f"sum by ({_BY}) (rate(gapless_requests_total{{{_OWN}}}[{_RATE}]))"
_FAILED = f'sum by ({_BY}) (rate(gapless_requests_total{{{_OWN},status="5xx"}}[{_RATE}]))'
_ROUTES = f"sum by (le, service, route) (rate(gapless_request_duration_seconds_bucket{{{_OWN}}}[{_RATE}]))"
_GUARDS = f"sum by (service, guard, outcome) (rate(gapless_guard_calls_total{{{_OWN}}}[{_RATE}]))"
_LAG = f"histogram_quantile(0.99, sum by (le, instance) (rate(gapless_loop_lag_seconds_bucket{{{_OWN}}}[{_RATE}])))"
_WHO = "{{service}} {{release}}"
_TOOK, _GATEWAY_TOOK = "gapless_request_duration_seconds", "gapless_gateway_request_duration_seconds"


def _by_instance(expr: str) -> list[tuple[str, str]]:
    return [(f"sum by (service, instance) ({expr})", "{{instance}}")]


def _increase(counter: str, by: str = "service") -> str:
    return f"sum by ({by}) (increase({counter}{{{_OWN}}}[{_RATE}]))"


GRAPHS = (
    Graph("Requests", "reqps", [(_REQUESTS, _WHO)]),
    Graph("Failed", "percentunit", [(_share(_FAILED, _REQUESTS), _WHO)]),
    Graph("Time to answer", "s", [(_p(0.99, _TOOK), f"p99 {_WHO}"), (_p(0.5, _TOOK), f"p50 {_WHO}")]),
    Graph("As the gateway saw it", "s", [(_p(0.99, _GATEWAY_TOOK), f"p99 {_WHO}")]),
    Graph("Slowest routes", "s", [(f"topk(10, histogram_quantile(0.99, {_ROUTES}))", "{{service}} {{route}}")]),
    Graph("Share of the users", "percentunit", [(f"gapless_split_share{{{_OWN}}}", _WHO)]),
    Graph("Instances", "short", [(f"sum by ({_BY}, phase) (gapless_instances{{{_OWN}}})", f"{_WHO} {{{{phase}}}}")]),
    Graph("Guards: calls by outcome", "ops", [(_GUARDS, "{{service}} {{guard}} {{outcome}}")]),
    Graph("Processors", "short", _by_instance(f"rate(process_cpu_seconds_total{{{_OWN}}}[{_RATE}])")),
    Graph("Memory", "bytes", _by_instance(f"process_resident_memory_bytes{{{_OWN}}}")),
    Graph("How late the loop is", "s", [(_LAG, "{{instance}}")]),
    Graph(
        "Restarts and reloads",
        "short",
        [
            (_increase("gapless_server_restarts_total"), "restarts {{service}}"),
            (_increase("gapless_server_reloads_total", "service, result"), "reloads {{service}} {{result}}"),
        ],
    ),
)


def dashboard(system: str, services: Iterable[Service]) -> dict[str, Any]:
    """To be imported, or put where Grafana is provisioned from. `system`: its name."""
    graphs = [*GRAPHS, *(_derived(service, metric) for service in services for metric in service.metrics.values())]
    return {
        "uid": f"gapless-{system}"[:40],
        "title": f"{system} (Gapless)",
        "tags": ["gapless"],
        "schemaVersion": SCHEMA,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [_panel(number, graph) for number, graph in enumerate(graphs)],
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    values = "label_values(gapless_instances_wanted, service)"
    service = {"name": "service", "type": "query", "datasource": SOURCE, "query": values, "definition": values}
    return [source, {**service, "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*"}]


def _derived(service: Service, metric: DerivedMetric) -> Graph:
    def rate(name: str) -> str:
        return f'sum by (release) (rate({name}{{service="{service.name}"}}[{_RATE}]))'

    expr = _share(rate(metric.metric), rate(metric.to)) if metric.to else rate(metric.metric)
    return Graph(f"{service.name}: {metric.name}", "percentunit" if metric.to else "ops", [(expr, "{{release}}")])


def _panel(number: int, graph: Graph) -> dict[str, Any]:
    width = COLUMNS // 2
    place = {"x": number % 2 * width, "y": number // 2 * HEIGHT, "w": width, "h": HEIGHT}
    targets = [
        {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": expr, "legendFormat": legend, "exemplar": True}
        for n, (expr, legend) in enumerate(graph.lines)
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": graph.title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": graph.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }

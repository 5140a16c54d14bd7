"""What a Prometheus needs to know of a system: whom to scrape, what to compute, when to alert. Pure.

Alerts on objectives fire by burn rates over two windows each: the long one says that it matters, the short one that it
still goes on. Source: Google, The Site Reliability Workbook, chapter 5 ("Alerting on SLOs").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from gapless.core.model import Service
from gapless.observe.overview import GATEWAY, REQUESTS

RULES = "gapless.rules.yml"
CONFIG = "prometheus.yml"
LISTEN = "127.0.0.1:9464"
"""Where nothing else is said."""
SCRAPE_S = 5


class Burn(NamedTuple):
    """Spending the budget so many times as fast as it lasts, over both windows."""

    times: float
    long: str
    short: str
    severity: str


BURNS = (Burn(14.4, "1h", "5m", "P1"), Burn(6.0, "6h", "30m", "P2"), Burn(1.0, "3d", "6h", "P3"))
WINDOWS = ("5m", "30m", "1h", "6h", "3d")


def config(listen: str = "") -> dict[str, Any]:
    """The whole configuration of a Prometheus that does nothing else; or take its job over into yours. `listen`: where
    the control plane offers the metrics of all."""
    listen = listen or LISTEN
    job = {"job_name": "gapless", "honor_labels": True, "static_configs": [{"targets": [listen]}]}
    return {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s", "evaluation_interval": "15s"},
        "storage": {"exemplars": {"max_exemplars": 100_000}},
        "rule_files": [RULES],
        "scrape_configs": [job],
    }


def rules(system: str, services: Sequence[Service]) -> dict[str, Any]:
    """Recording rules, then alerts. `system`: its name."""
    recorded = [rule for service in services for rule in _recorded(service)]
    alerts = [rule for service in services for rule in _alerts(service)]
    return {
        "groups": [
            {"name": f"{system}-recorded", "interval": "15s", "rules": recorded},
            {"name": f"{system}-alerts", "rules": [*alerts, *_of_all()]},
        ]
    }


def source(service: Service) -> tuple[str, str]:
    """Counter and histogram of its requests: a `command` is seen by the gateway alone."""
    return REQUESTS if service.app else GATEWAY


def _recorded(service: Service) -> Iterator[dict[str, Any]]:
    total, took = source(service)
    own = f'service="{service.name}"'
    labels = {"service": service.name}
    yield _record("gapless:requests:rate5m", f"sum by (release) (rate({total}{{{own}}}[5m]))", labels)
    for window in WINDOWS:
        everything = f"sum(rate({total}{{{own}}}[{window}]))"
        failed = f'(sum(rate({total}{{{own},status="5xx"}}[{window}])) or {everything} * 0)'
        yield _record(f"gapless:error_ratio:rate{window}", f"{failed} / {everything}", labels)
    buckets = f"sum by (le, release) (rate({took}_bucket{{{own}}}[5m]))"
    yield _record("gapless:latency_p99:5m", f"histogram_quantile(0.99, {buckets})", labels)
    for metric in service.metrics.values():
        rate = f"sum(rate({metric.metric}{{{own}}}[5m]))"
        expr = f"{rate} / sum(rate({metric.to}{{{own}}}[5m]))" if metric.to else rate
        yield _record("gapless:derived:5m", expr, {**labels, "metric": metric.name})


def _record(name: str, expr: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"record": name, "expr": expr, "labels": labels}


def _alerts(service: Service) -> Iterator[dict[str, Any]]:
    own = f'{{service="{service.name}"}}'
    if service.objective.availability:
        budget = 1 - service.objective.availability
        for burn in BURNS:
            bound = f"{burn.times * budget:.6g}"
            windows = (f"gapless:error_ratio:rate{window}{own} > {bound}" for window in (burn.long, burn.short))
            what = f"{service.name} fails so often that its budget is spent {burn.times:g} times too fast"
            yield _alert("GaplessBudgetBurns", " and ".join(windows), burn.severity, what, service, window=burn.long)
    if service.objective.p99_s:
        expr = f"max(gapless:latency_p99:5m{own}) > {service.objective.p99_s:g}"
        what = f"{service.name}: 99% of the requests take longer than the {service.objective.p99_s:g} s promised"
        yield _alert("GaplessSlow", expr, "P2", what, service, lasts="5m")
    wanted = f"gapless_instances_wanted{own}"
    ready = f'sum(gapless_instances{{service="{service.name}",phase="ready"}})'
    expr = f"({ready} or sum({wanted}) * 0) < sum({wanted})"
    what = f"{service.name} has fewer ready instances than asked for"
    yield _alert("GaplessInstancesMissing", expr, "P1", what, service, lasts="2m")


def _of_all() -> Iterator[dict[str, Any]]:
    cpu = 'sum by (service, instance) (rate(process_cpu_seconds_total{service!=""}[5m]))'
    workers = "sum by (service, instance) (gapless_workers)"
    what = "an instance uses more than 85% of its processors"
    yield _alert("GaplessBusy", f"{cpu} / {workers} > 0.85", "P2", what, lasts="5m")
    yield _alert("GaplessDown", 'up{job="gapless"} == 0', "P1", "the control plane does not answer", lasts="1m")
    disk = "gapless_disk_free_bytes / gapless_disk_bytes < 0.05"
    yield _alert("GaplessDiskFull", disk, "P1", "less than 5% of the state directory's disk is free", lasts="5m")


def _alert(
    name: str, expr: str, severity: str, what: str, service: Service | None = None, lasts: str = "", **labels: str
) -> dict[str, Any]:
    known = {"severity": severity, **({"service": service.name} if service else {}), **labels}
    rule = {"alert": name, "expr": expr, **({"for": lasts} if lasts else {}), "labels": known}
    return {**rule, "annotations": {"summary": what}}


def expressions(found: Iterable[dict[str, Any]]) -> list[str]:
    """Every expression of these groups."""
    return [rule["expr"] for group in found for rule in group["rules"]]

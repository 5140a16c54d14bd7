"""promtool, as Debian has it, accepts what is exported for Prometheus and every expression of the dashboard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from gapless.cli.export import write_prometheus
from gapless.config import load
from gapless.observe.exports.grafana import dashboard
from tests.integration.prometheus_kit import promtool
from tests.unit.test_exports import ORDERS, PAYMENT


def test_the_files_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "gapless.yaml").write_text("system: shop\nservices: {orders: {app: a:b}}\n")
    system = replace(load(tmp_path), services={"orders": ORDERS, "payment": PAYMENT})
    write_prometheus(system, tmp_path / "p")
    assert "SUCCESS" in promtool("check", "config", str(tmp_path / "p" / "prometheus.yml"))
    assert "rules found" in promtool("check", "rules", str(tmp_path / "p" / "gapless.rules.yml"))


def test_the_rules_fire_when_the_budget_burns(tmp_path: Path) -> None:
    (tmp_path / "gapless.yaml").write_text("system: shop\nservices: {orders: {app: a:b}}\n")
    write_prometheus(replace(load(tmp_path), services={"orders": ORDERS}), tmp_path)
    labels = 'service="orders",release="1",instance="a",route="/",method="GET"'
    series = [
        {"series": f'gapless_requests_total{{{labels},status="2xx"}}', "values": "0+95x120"},
        {"series": f'gapless_requests_total{{{labels},status="5xx"}}', "values": "0+5x120"},
    ]
    fast = {"severity": "P1", "service": "orders", "window": "1h"}
    what = "orders fails so often that its budget is spent 14.4 times too fast"
    expected = {
        "eval_time": "90m",
        "alertname": "GaplessBudgetBurns",
        "exp_alerts": [
            {
                "exp_labels": {**fast, "severity": s, "window": w},
                "exp_annotations": {"summary": what.replace("14.4", n)},
            }
            for s, w, n in (("P1", "1h", "14.4"), ("P2", "6h", "6"), ("P3", "3d", "1"))
        ],
    }
    test = {"rule_files": ["gapless.rules.yml"], "evaluation_interval": "1m"}
    case = {"interval": "1m", "input_series": series, "alert_rule_test": [expected]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({**test, "tests": [case]}))
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "test.yml"))


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    panels = dashboard("shop", [ORDERS, PAYMENT])["panels"]
    exprs = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [
        {"record": f"check:{n}", "expr": expr.replace("$__rate_interval", "5m").replace("$service", "orders")}
        for n, expr in enumerate(exprs)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "check", "rules": rules}]}))
    assert f"{len(exprs)} rules found" in promtool("check", "rules", str(tmp_path / "rules.yml"))

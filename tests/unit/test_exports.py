"""Files for Prometheus and Grafana: complete, without collisions, and from the objectives of gapless.yaml."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gapless.cli.app import build
from gapless.core.model import DerivedMetric, Objective, Service
from gapless.observe.exports.grafana import COLUMNS, dashboard
from gapless.observe.exports.prometheus_files import BURNS, config, rules

ORDERS = Service(
    name="orders",
    app="shop.orders:app",
    objective=Objective(availability=0.999, p99_s=0.3),
    metrics={
        "paid": DerivedMetric(name="paid", metric="orders_paid_total"),
        "paid_ratio": DerivedMetric(name="paid_ratio", metric="orders_paid_total", to="orders_created_total"),
    },
)
PAYMENT = Service(name="payment", command=("./pay",))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="g-"))
    monkeypatch.chdir(path)
    yield path
    shutil.rmtree(path)


def alerts(*services: Service) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for group in rules("shop", services)["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                found.setdefault(rule["alert"], []).append(rule)
    return found


def test_burn_rates_come_from_the_objective() -> None:
    burns = alerts(ORDERS)["GaplessBudgetBurns"]
    assert [rule["labels"]["severity"] for rule in burns] == ["P1", "P2", "P3"]
    for rule, burn in zip(burns, BURNS, strict=True):
        bound = f"> {burn.times * 0.001:.6g}"
        assert f'rate{burn.long}{{service="orders"}} {bound}' in rule["expr"]
        assert f'rate{burn.short}{{service="orders"}} {bound}' in rule["expr"]
    assert "> 0.3" in alerts(ORDERS)["GaplessSlow"][0]["expr"]


def test_nothing_promised_is_nothing_alerted_and_a_command_is_seen_by_the_gateway() -> None:
    assert not {"GaplessBudgetBurns", "GaplessSlow"} & alerts(PAYMENT).keys()
    text = json.dumps(rules("shop", [PAYMENT]))
    assert "gapless_gateway_requests_total" in text
    assert "gapless_requests_total" not in text


def test_a_dashboard_is_well_formed() -> None:
    board = dashboard("shop", [ORDERS, PAYMENT])
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["title"] for panel in panels} >= {"Requests", "orders: paid", "orders: paid_ratio"}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            assert target["datasource"]["uid"] == "${datasource}"
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "service"}


def test_the_verb_writes_and_prints_them(here: Path) -> None:
    (here / "gapless.yaml").write_text(
        "system: shop\nmetrics: {listen: 9464}\n"
        "services: {orders: {app: a:b, objective: {availability: 99.9%}, metrics: {paid: orders_paid}}}\n"
    )
    run = CliRunner()
    written = run.invoke(build("export"), ["export", "prometheus", "--to", "p"])
    assert written.exit_code == 0, written.output
    assert yaml.safe_load((here / "p/prometheus.yml").read_text()) == config("127.0.0.1:9464")
    assert "GaplessBudgetBurns" in (here / "p/gapless.rules.yml").read_text()
    board = json.loads(run.invoke(build("export"), ["export", "grafana"]).stdout)
    assert board["title"] == "shop (Gapless)"
    assert "no app" in str(run.invoke(build("export"), ["export", "systemd"]).exception)
    assert "no export" in str(run.invoke(build("export"), ["export", "nagios"]).exception)
    (here / "file").write_text("")
    assert "file" in str(run.invoke(build("export"), ["export", "prometheus", "--to", "file/x"]).exception)

"""Files for Prometheus and Grafana: complete, without collisions, and from the objectives of gapless.yaml."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
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


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """An object that has no other keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, WHOLE = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}
SOURCE = closed("type uid", type={"const": "prometheus"}, uid={"const": "${datasource}"})
POSITION = closed(
    "x y w h",
    x={**WHOLE, "maximum": COLUMNS - 1},
    y=WHOLE,
    w={"type": "integer", "minimum": 1, "maximum": COLUMNS},
    h={"type": "integer", "minimum": 1},
)
TARGET = closed(
    "refId datasource expr",
    refId={"type": "string", "pattern": "^[A-Z]$"},
    datasource=SOURCE,
    expr=TEXT,
    legendFormat=TEXT,
    exemplar={"type": "boolean"},
)
LEGEND = closed("", displayMode={"enum": ["list", "table", "hidden"]}, placement={"enum": ["bottom", "right"]})
PANEL = closed(
    "id type title datasource gridPos fieldConfig options targets",
    id={"type": "integer", "minimum": 1},
    type={"const": "timeseries"},
    title=TEXT,
    datasource=SOURCE,
    gridPos=POSITION,
    fieldConfig=closed(
        "defaults overrides",
        defaults=closed(
            "unit", unit={"enum": ["reqps", "ops", "percentunit", "s", "short", "bytes"]}, min={"type": "number"}
        ),
        overrides={"type": "array", "maxItems": 0},
    ),
    options=closed("legend", legend=LEGEND, tooltip=closed("mode", mode={"enum": ["single", "multi", "none"]})),
    targets={"type": "array", "items": TARGET, "minItems": 1},
)
VARIABLE = closed(
    "name type query",
    name={"type": "string", "pattern": r"^\w+$"},
    type={"enum": ["datasource", "query"]},
    query=TEXT,
    definition=TEXT,
    datasource=SOURCE,
    refresh={"enum": [0, 1, 2]},
    multi={"type": "boolean"},
    includeAll={"type": "boolean"},
    allValue=TEXT,
)
BOARD = closed(
    "uid title schemaVersion time templating panels",
    uid={"type": "string", "pattern": "^[A-Za-z0-9_-]{8,40}$"},
    title=TEXT,
    tags={"type": "array", "items": TEXT},
    schemaVersion={"type": "integer", "minimum": 36, "maximum": 41},
    refresh={"type": "string", "pattern": "^[0-9]+[smhd]$"},
    time=closed("from to", **{"from": {"type": "string", "pattern": "^now-"}, "to": {"const": "now"}}),
    templating=closed("list", list={"type": "array", "items": VARIABLE}),
    panels={"type": "array", "items": PANEL, "minItems": 1},
)
"""What we use of the JSON model that Grafana documents ("Dashboard JSON model"), and nothing else: a key that is
misspelt is none that Grafana knows."""


def test_a_dashboard_has_only_what_grafana_documents() -> None:
    board = json.loads(json.dumps(dashboard("shop", [ORDERS, PAYMENT])))
    jsonschema.Draft202012Validator(BOARD).validate(board)
    variables = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    known = {*variables, "__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
    assert used <= known
    for panel in board["panels"]:
        names = set(re.findall(r"{{(\w+)}}", " ".join(target["legendFormat"] for target in panel["targets"])))
        grouped = " ".join(target["expr"] for target in panel["targets"])
        assert all(name in grouped for name in names - {"service", "release"}), "a legend names what is grouped by"


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

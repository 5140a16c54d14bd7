"""Everybody is asked for metrics, for the record and for whoever scrapes us; and what is made of it for people."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from gapless.api.rest_metrics import metrics_app
from gapless.cli.metrics import sparkline
from gapless.control.scraper import Scraper
from gapless.core.model import DerivedMetric, Service
from gapless.core.ports import Selection
from gapless.observe.exposition import federated, lines, parted, rendered, wants_open
from gapless.observe.metrics import Meter
from gapless.observe.overview import overview
from gapless.observe.recorder.recorder import Recorder
from gapless.service.admin import render
from gapless.testing import FakeSignals, FakeWorld
from tests.unit.control_kit import Rig

TOLD = """\
# HELP gapless_requests Requests answered
# TYPE gapless_requests counter
gapless_requests_total{method="GET",status="2xx"} 7.0
# TYPE took_seconds histogram
took_seconds_bucket{le="0.1"} 6.0
took_seconds_bucket{le="+Inf"} 7.0 # {trace_id="4bf9"} 0.3 1700000000.0
took_seconds_count 7.0
took_seconds_sum 0.9
# EOF
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="g-"))
    yield path
    shutil.rmtree(path)


def samples(text: bytes, *, open_metrics: bool) -> dict[tuple[str, str], float]:
    families = (read_open if open_metrics else read_plain)(text.decode())
    return {(s.name, s.labels.get("instance", "")): s.value for family in families for s in family.samples}


async def test_everybody_is_recorded_with_labels_and_offered_as_one_text(directory: Path) -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    first, second = rig.live()
    rig.fleet.told = {first.id: TOLD, second.id: TOLD.replace("7.0", "9.0")}
    recorder = Recorder(directory / "r.db", rig.world)
    await recorder.open()
    scraper = Scraper(rig.plane.records, rig.fleet, rig.traffic, directory, recorder)
    await scraper.step()
    requests = Selection(metric="gapless_requests_total", by=("service", "release", "instance"))
    found = {s.labels["instance"]: s.points[0][1] for s in await recorder.latest(requests)}
    assert found == {first.id: 7.0, second.id: 9.0}
    phases = Selection(metric="gapless_instances", where={"service": "web", "phase": "ready"})
    assert (await recorder.latest(phases))[0].points[0][1] == 2.0
    assert "gapless_disk_free_bytes" in await recorder.names()
    text = await scraper.federated(open_metrics=True)
    assert b'# {trace_id="4bf9"} 0.3' in text
    both = [samples(text, open_metrics=True), samples(await scraper.federated(open_metrics=False), open_metrics=False)]
    for told in both:
        assert told["gapless_requests_total", first.id] == 7.0
        assert told["took_seconds_count", second.id] == 9.0
        assert told["process_open_fds", "control"] > 0
    await recorder.close()
    await rig.down()


async def test_each_is_found_and_asked_alone_and_is_down_when_it_does_not_answer(directory: Path) -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    first, second = rig.live()
    rig.fleet.told = {first.id: TOLD, second.id: ""}
    scraper = Scraper(rig.plane.records, rig.fleet, rig.traffic, directory, None)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(metrics_app(scraper)), base_url="http://a:9464"
    ) as asked:
        groups = (await asked.get("/http_sd")).json()
        assert {group["targets"][0] for group in groups} == {"a:9464"}
        where = {group["labels"]["instance"]: group["labels"] for group in groups}
        assert list(where) == [first.id, second.id, "gateway", "control"]
        assert (where[first.id]["service"], where[first.id]["__meta_gapless_phase"]) == ("web", "ready")
        answers = {name: await asked.get(labels["__metrics_path__"]) for name, labels in where.items()}
        assert [answer.status_code for answer in answers.values()] == [200, 503, 200, 200]
        assert samples(answers[first.id].content, open_metrics=False)["gapless_requests_total", first.id] == 7.0
        assert samples(answers["control"].content, open_metrics=False)["process_open_fds", "control"] > 0
        assert (await asked.get("/metrics/nobody")).status_code == 404
    await rig.down()


def test_texts_that_disagree_and_odd_lines_do_no_harm() -> None:
    gauge = '# TYPE depth gauge\ndepth{a="}, \\"x\\" {"} 3 1700000000\n'
    counter = "# TYPE depth counter\ndepth_total 4\n"
    whole = federated([({"instance": "a"}, gauge), ({"instance": "b"}, counter)], open_metrics=False).decode()
    assert "depth_total" not in whole
    [(series, value)] = lines(whole)
    assert value == "3"
    assert parted(series) == ("depth", {"instance": "a", "a": '}, "x" {'})
    assert list(lines("broken\nfine 1\n{} \n\n# a comment")) == [("fine", "1")]


def test_labels_survive_being_written_and_read() -> None:
    labels = {"path": 'a\\b"c\nd', "empty": ""}
    assert parted(rendered("x", labels)) == ("x", labels)
    assert parted(rendered("x", {})) == ("x", {})


def test_who_understands_openmetrics() -> None:
    assert wants_open("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert not wants_open("text/plain;version=0.0.4")


def test_both_formats_of_a_meter() -> None:
    meter = Meter()
    meter.counter("paid", "Paid", ("way",)).labels("card").inc(3)
    meter.histogram("took_seconds", "Took").labels().observe(0.2)
    assert b'paid_total{way="card"} 3.0' in render(meter.samples())
    told = render(meter.samples(), open_metrics=True)
    assert told.endswith(b"# EOF\n")
    assert b"took_seconds_count 1.0" in told


async def test_an_overview_has_what_the_instances_say_or_else_the_gateway() -> None:
    signals = FakeSignals(FakeWorld())
    orders, payment = {"service": "orders", "release": "2"}, {"service": "payment", "release": "1"}
    signals.put_steady("gapless_requests_total", {**orders, "instance": "a", "status": "2xx"}, per_s=9)
    signals.put_steady("gapless_requests_total", {**orders, "instance": "a", "status": "5xx"}, per_s=1)
    signals.put_steady("gapless_gateway_requests_total", {**orders, "status": "2xx"}, per_s=8)
    signals.put_steady("gapless_gateway_requests_total", {**payment, "status": "2xx"}, per_s=5)
    signals.put_gauge("process_resident_memory_bytes", {**orders, "instance": "a"}, 1e6)
    signals.put_gauge("process_resident_memory_bytes", {**orders, "instance": "b"}, 2e6)
    signals.put_steady("orders_paid_total", orders, per_s=3)
    signals.put_steady("orders_created_total", orders, per_s=4)
    ratio = DerivedMetric(name="paid_ratio", metric="orders_paid_total", to="orders_created_total")
    rows = await overview(signals, [Service(name="orders", metrics={"paid_ratio": ratio}), Service(name="payment")])
    assert [(row.service, row.release, round(row.rate or 0)) for row in rows] == [
        ("orders", "2", 10),
        ("payment", "1", 5),
    ]
    assert rows[0].errors == pytest.approx(0.1)
    assert rows[0].memory == 3e6
    assert (rows[0].derived or {})["paid_ratio"] == pytest.approx(0.75)
    assert (rows[1].errors, rows[1].p99_s, rows[1].cpu) == (0.0, None, None)


def test_a_line_of_bars() -> None:
    points = [(float(n), float(n % 8)) for n in range(8)]
    assert sparkline(points, 0, 8, width=8) == "▁▂▃▄▅▆▇█"
    assert sparkline(points[:2], 0, 8, width=8) == "▁█      "
    assert sparkline([(1.0, 0.0)], 0, 4, width=4) == " ▁  "

"""A real system is recorded, asked, scraped by a real Prometheus with its traces, and its logs are merged."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.kit import System, until
from tests.integration.prometheus_kit import ask, prometheus
from tests.ports import free_port

RESTARTS = Path(__file__).parents[2] / "benchmarks" / "restarts.py"
PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
MORE = "    protect: {breaker: 50%}\n    access_log: on\n"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def traced(url: str) -> None:
    request = urllib.request.Request(url, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def rate(system: System) -> float:
    """Of all requests, over the last minutes, as the record has it."""
    found = system.json("metrics", "query", "gapless_requests_total", "--of", "increase", "--over", "300s")
    return max((value for series in found["series"] for _, value in series["points"]), default=0.0)


def on_disk(system: System) -> bool:
    """Half a minute at most of what was recorded is in memory only."""
    with closing(sqlite3.connect(f"file:{system.state}/metrics/recorded.db?mode=ro", uri=True)) as record:
        rows = record.execute("SELECT count(*) FROM block WHERE metric = 'gapless_requests_total'").fetchone()
    return bool(rows[0])


def discovering(port: int) -> str:
    """The job of the page, impatient."""
    jobs = re.findall(r"^```yaml\nscrape_configs:\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    [job] = [job for job in jobs if "http_sd" in job]
    return str(job.replace("9464", str(port)).replace("5s", "1s"))


def check_dashboard(system: System, url: str) -> None:
    """Every line of every graph has points, as Grafana would ask for it."""
    argv = [sys.executable, "-m", "gapless", "export", "grafana", "--file", str(system.file)]
    board = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    lines = {
        target["expr"].replace("$__rate_interval", "1m").replace("$service", ".*"): panel["title"]
        for panel in board["panels"]
        for target in panel["targets"]
    }

    def empty() -> list[str]:
        traced(system.url)
        return [title for expr, title in lines.items() if not ask(url, "query", query=expr)["result"]]

    missing: list[str] = []

    def whole() -> bool:
        missing[:] = empty()
        return not missing

    try:
        until(whole, "points for every line", system.output)
    except AssertionError:
        pytest.fail(f"no points for {missing}")
    found = ask(url, "label/service/values", **{"match[]": "gapless_instances_wanted"})
    assert found == ["web"], "what the dashboard offers to choose"


def check_discovery(system: System, url: str) -> None:
    """Each is a target of its own, with the labels of the page; one that has gone is none any more."""

    def up() -> dict[str, str]:
        found = ask(url, "query", query='up{job="gapless-instances"} == 1')["result"]
        return {one["metric"]["instance"]: one["metric"].get("service", "") for one in found}

    until(lambda: sorted(up().values()) == ["", "", "web", "web"], "both instances, gateway, control", system.output)
    assert {"gateway", "control"} < up().keys()
    alone = ask(url, "query", query='gapless_workers{job="gapless-instances", service="web"}')
    assert {one["metric"]["instance"] for one in alone["result"]} == {name for name, of in up().items() if of}
    assert system.run("scale", "web", "1").returncode == 0
    until(lambda: sorted(up().values()) == ["", "", "web"], "one instance less", system.output)


@pytest.mark.timeout(300)
def test_metrics_are_recorded_and_scraped(short_dir: Path, tmp_path: Path) -> None:
    system, port = System(short_dir), free_port()
    system.file.write_text(system.file.read_text() + f"{MORE}metrics: {{listen: {port}}}\n")
    config = (
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\nstorage: {exemplars: {max_exemplars: 1000}}\n"
        "scrape_configs:\n  - {job_name: gapless, honor_labels: true, static_configs: "
        f"[{{targets: ['127.0.0.1:{port}']}}]}}\n" + discovering(port)
    )
    try:
        system.up()
        options = ["--enable-feature=exemplar-storage"]
        with prometheus(tmp_path, config, *options) as url:
            until(lambda: (traced(system.url), rate(system))[1] > 5, "recorded requests", system.output)
            [row] = system.json("metrics", "web")
            assert (row["service"], row["release"]) == ("web", row["release"])
            assert "gapless_gateway_requests_total" in system.run("metrics", "query").stdout

            def exemplars() -> bool:
                found = ask(
                    url, "query_exemplars", query="gapless_request_duration_seconds_bucket", start="0", end="4e9"
                )
                return any(one["labels"]["trace_id"] == TRACE for each in found for one in each["exemplars"])

            until(exemplars, "an exemplar in Prometheus", system.output)
            labels = ask(
                url, "query", query='sum by (service, release, instance) (gapless_requests_total{service="web"})'
            )
            assert {one["metric"]["service"] for one in labels["result"]} == {"web"}
            check_dashboard(system, url)
            check_discovery(system, url)
        before = rate(system)
        until(lambda: on_disk(system), "what a killed control plane leaves", system.output)
        system.kill_control()
        system.up()
        until(lambda: rate(system) >= min(0.5 * before, 5), "the record of before", system.output)
        lines = [json.loads(line) for line in system.run("logs", "--json", "--since", "1h").stdout.splitlines()]
        assert {"control", "envoy"} <= {line["instance"] for line in lines}
        assert any(line.get("logger") == "gapless.access" and line["status"] == 200 for line in lines)
        latest: dict[str, str] = {}  # of one log, which several processes write, the order is that of the file
        times = []
        for line in lines:
            latest[line["instance"]] = max(latest.get(line["instance"], ""), line.get("time", ""))
            times += [latest[line["instance"]]] if latest[line["instance"]] else []
        assert times == sorted(times)
    finally:
        system.down()


@pytest.mark.promise
@pytest.mark.timeout(300)
def test_a_prometheus_that_scrapes_through_hot_restarts_counts_each_request_once() -> None:
    """The benchmark, which restarts a thousand times, in short."""
    argv = [sys.executable, str(RESTARTS), "--reloads", "20"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "requests counted                   61 of 61 sent" in done.stdout

"""Metrics across a thousand hot restarts of one instance, scraped by a real Prometheus meanwhile: did a counter ever go
back, is each request counted once, what does a scrape come to cost, are traces found by their exemplars, does anything
pile up?

    .venv/bin/python benchmarks/restarts.py [--reloads 1000]

Needs Debian's prometheus. Everything is read back through its API; only the cost of a scrape is measured here as well.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.e2e.kit import System, free_port
from tests.integration.prometheus_kit import ask, prometheus, until

from gapless.server.admin.ask import ask as ask_admin
from gapless.server.admin.ask import fetch

CONFIG = """\
system: tiny
gateway: {{listen: "127.0.0.1:{port}"}}
metrics: {{listen: "127.0.0.1:{metrics}"}}
services:
  web: {{app: web:app, source: {source}, instances: 1, routes: [/], drain: 2s}}
"""
SCRAPED = """\
global: {{scrape_interval: 2s, scrape_timeout: 2s}}
storage: {{exemplars: {{max_exemplars: 100000}}}}
scrape_configs:
  - {{job_name: gapless, honor_labels: true, static_configs: [{{targets: ["127.0.0.1:{metrics}"]}}]}}
"""
ASKED = 3
"""Requests between two restarts; the last of them is traced."""
SCRAPES = 20
TARGET_MS = 50.0
COUNTED = 'gapless_requests_total{service="web"}'
SETTLE_S = 6.0
"""Three scrapes: then Prometheus has every series that there is by now."""
MOST_MORE = {"files": 10, "processes": 2, "descriptors": 30}
"""What may come and go by itself; one leaked at each restart is more."""
HARM = ("out_of_order", "duplicate_timestamp", "out_of_bounds")
"""What Prometheus drops of scrapes that are not as they should be."""


class Run:
    """One system, one Prometheus, and what was sent."""

    def __init__(self, system: System, url: str) -> None:
        self._system, self._url = system, url
        self.sent, self.traces = 0, set[str]()
        self.admin = ""

    def begin(self) -> None:
        """Until Prometheus knows the instance from its first request on."""
        [socket] = [path for path in (self._system.state / "run").glob("*.sock") if path.name.startswith("web")]
        self.admin = str(socket)
        self._request()
        until(lambda: self.counted() == self.sent, "first request in Prometheus", self._system.output.read_text)
        self.began_at = time.time()

    def restart(self) -> None:
        for number in range(ASKED):
            self._request(traced=number == ASKED - 1)
        said = ask_admin(self.admin, "POST", "/reload", 120.0)
        assert said.status == 200, said

    def _request(self, *, traced: bool = False) -> None:
        headers = {}
        if traced:
            trace = os.urandom(16).hex()
            headers = {"traceparent": f"00-{trace}-{os.urandom(8).hex()}-01"}
            self.traces.add(trace)
        with urllib.request.urlopen(urllib.request.Request(self._system.url, headers=headers), timeout=60) as answer:
            assert answer.status == 200
        self.sent += 1

    def value(self, query: str) -> float:
        """Of a question that has one answer; 0 when it has none."""
        found = ask(self._url, "query", query=query)["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def counted(self) -> float:
        return self.value(f"sum({COUNTED})")

    def over(self) -> str:
        """A range that holds all that has happened since `begin`."""
        return f"{int(time.time() - self.began_at) + 5}s"

    def series(self) -> float:
        return self.value('count({job="gapless"})')

    def exemplars(self) -> set[str]:
        """Of which traces Prometheus has one."""
        found = ask(self._url, "query_exemplars", query="gapless_request_duration_seconds_bucket", start="0", end="4e9")
        return {one["labels"]["trace_id"] for each in found for one in each["exemplars"]}

    def dropped(self) -> float:
        """Samples and exemplars that Prometheus has not taken."""
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = re.findall(r"^prometheus_(?:target_scrapes|tsdb)_\w*?(\w+?)_total ([\d.e+]+)$", text, re.MULTILINE)
        return sum(float(value) for name, value in found if any(harm in name for harm in HARM))

    def size(self) -> int:
        """Bytes of what the instance tells."""
        return len(fetch(self.admin, "GET", "/metrics", 60.0)[1])

    def piled(self) -> dict[str, int]:
        """What could grow with each restart: files of the system, processes, their descriptors."""
        pids = self._system.processes()
        return {
            "files": sum(1 for _ in self._system.state.rglob("*")),
            "processes": len(pids),
            "descriptors": sum(descriptors(pid) for pid in pids),
        }


def descriptors(pid: int) -> int:
    """0 of a process that has just ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return 0


def scrape_ms(admin: str) -> float:
    began = time.perf_counter()
    fetch(admin, "GET", "/metrics", 60.0)
    return (time.perf_counter() - began) * 1000


def quiet(run: Run) -> dict[str, int]:
    """`piled`, once those who drain have gone."""
    until(lambda: ask_admin(run.admin, "GET", "/healthz", 60.0).body["workers"] == {"ready": 1}, "end of the drain")
    return run.piled()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=1000)
    reloads = parser.parse_args().reloads
    directory = Path(tempfile.mkdtemp(prefix="r-"))
    system, metrics = System(directory), free_port()
    system.file.write_text(CONFIG.format(port=system.port, metrics=metrics, source=directory / "v1"))
    (directory / "prometheus").mkdir()
    try:
        system.up()
        options = ["--enable-feature=exemplar-storage"]
        with prometheus(directory / "prometheus", SCRAPED.format(metrics=metrics), *options) as url:
            return 0 if measured(Run(system, url), reloads) else 1
    finally:
        system.down()
        shutil.rmtree(directory, ignore_errors=True)


def measured(run: Run, reloads: int) -> bool:
    """Whether all is as it should be."""
    run.begin()
    run.restart()  # what only the first one brings is there from here on
    time.sleep(SETTLE_S)
    before, series, first = quiet(run), run.series(), [scrape_ms(run.admin) for _ in range(SCRAPES)]
    size = run.size()
    for number in range(2, reloads + 1):
        run.restart()
        if number % 100 == 0:
            print(f"{number} restarts, {run.counted():.0f} of {run.sent} requests scraped", flush=True)
    with suppress(AssertionError):  # told below
        until(lambda: run.counted() == run.sent, "last request in Prometheus")
    time.sleep(SETTLE_S)
    last = [scrape_ms(run.admin) for _ in range(SCRAPES)]
    print(f"the instance's own /metrics has {size} bytes after the first restart, {run.size()} now")
    return told(run, {"before": before, "after": quiet(run)}, (series, run.series()), (first, last), reloads)


def told(run: Run, piled: Any, series: tuple[float, float], scrapes: tuple[list[float], list[float]], n: int) -> bool:
    over, found = run.over(), run.exemplars()
    resets = run.value(f"sum(resets({COUNTED}[{over}]))")
    counted, dropped = run.counted(), run.dropped()
    took = {q: 1000 * run.value(f"{q}scrape_duration_seconds{{job='gapless'}}[{over}])") for q in Q}
    failed = run.value(f"count_over_time(up{{job='gapless'}}[{over}]) - sum_over_time(up{{job='gapless'}}[{over}])")
    print(f"{n} restarts. Prometheus says:")
    print(f"  resets of the counter of requests  {resets:.0f}")
    print(f"  requests counted                   {counted:.0f} of {run.sent} sent")
    print(f"  scrapes that failed                {failed:.0f} of {run.value(f'count_over_time(up[{over}])'):.0f}")
    print("  duration of a scrape               " + ", ".join(f"{Q[q]} {ms:.0f} ms" for q, ms in took.items()))
    print(f"  traces found by exemplars          {len(found & run.traces)} of {len(run.traces)}, "
          f"{len(found - run.traces)} of slow requests")  # fmt: skip
    print(f"  samples that it did not take       {dropped:.0f}")
    print(f"  series                             {series[0]:.0f} after the first restart, {series[1]:.0f} now")
    print(f"after the first restart {piled['before']}, now {piled['after']}")
    first, last = (statistics.median(each) for each in scrapes)
    print(f"the instance's own /metrics: {first:.1f} ms at first, {last:.1f} ms ({min(scrapes[1]):.1f} to "
          f"{max(scrapes[1]):.1f}) now; target {TARGET_MS:g}")  # fmt: skip
    grown = {what: piled["after"][what] - before for what, before in piled["before"].items()}
    whole = resets == dropped == 0 and counted == run.sent and bool(found & run.traces)
    return whole and series[1] <= series[0] and all(more <= MOST_MORE[what] for what, more in grown.items())


Q = {"quantile_over_time(0.5, ": "median", "quantile_over_time(0.99, ": "p99", "max_over_time(": "max"}


if __name__ == "__main__":
    sys.exit(main())

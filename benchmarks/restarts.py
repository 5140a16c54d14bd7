"""Metrics across a thousand hot restarts of one server: do counters ever go back, and what does a scrape come to cost?

python benchmarks/restarts.py [--reloads 1000]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from gapless.core.world import RealWorld
from gapless.server.admin.ask import ask, fetch

APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
ASKED = 3
"""Requests between two restarts."""
SCRAPES = 20
TARGET_MS = 50.0
COUNTER = re.compile(r"^(\w+_(?:total|count|bucket)(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


def counters(admin: str) -> dict[str, float]:
    return {name: float(value) for name, value in COUNTER.findall(fetch(admin, "GET", "/metrics", 60.0)[1].decode())}


def scrape_ms(admin: str) -> float:
    began = time.perf_counter()
    fetch(admin, "GET", "/metrics", 60.0)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=1000)
    reloads = parser.parse_args().reloads
    with tempfile.TemporaryDirectory(prefix="r-") as name:
        folder = Path(name)
        (folder / "app.py").write_text(APP)
        port, admin = RealWorld().free_port("127.0.0.1"), str(folder / "a.sock")
        argv = ["serve", "app:app", "--bind", f"127.0.0.1:{port}", "--admin", f"unix:{admin}", "--drain", "2s"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([sys.executable, "-m", "gapless", *argv], cwd=folder, stdout=log, stderr=log)
        try:
            report(admin, f"http://127.0.0.1:{port}/", reloads)
        finally:
            server.terminate()
            server.wait(30)


def report(admin: str, url: str, reloads: int) -> None:
    while not Path(admin).exists() or ask(admin, "GET", "/readyz", 10.0).status != 200:
        time.sleep(0.1)
    before, gone_back = counters(admin), 0
    first = [scrape_ms(admin) for _ in range(SCRAPES)]
    for number in range(1, reloads + 1):
        for _ in range(ASKED):
            urllib.request.urlopen(url, timeout=20).read()
        assert ask(admin, "POST", "/reload", 60.0).status == 200
        now = counters(admin)
        gone_back += sum(now.get(counter, 0.0) < value for counter, value in before.items())
        before = now
        if number % 100 == 0:
            print(f"{number} restarts: {gone_back} counters gone back, a scrape {scrape_ms(admin):.1f} ms", flush=True)
    last = [scrape_ms(admin) for _ in range(SCRAPES)]
    asked = sum(value for counter, value in before.items() if counter.startswith("gapless_requests_total"))
    print(f"scrape: {statistics.median(first):.1f} ms at first, {statistics.median(last):.1f} ms ({min(last):.1f} to "
          f"{max(last):.1f}) after {reloads} restarts; target {TARGET_MS:g}")  # fmt: skip
    print(f"{gone_back} counters gone back; {asked:.0f} of {ASKED * reloads} requests counted")


if __name__ == "__main__":
    main()

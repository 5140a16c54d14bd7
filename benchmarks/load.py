"""What the load client itself costs: achieved rate, lag behind its schedule, CPU per request; beside `wrk` if present.

Run: python benchmarks/load.py [--for 5s]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from gapless.core.world import RealWorld

APP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
"""
RATES = (50, 500, 2_000, 5_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--for", dest="length", default="5s")
    options = parser.parse_args()
    port = RealWorld().free_port("127.0.0.1")
    with tempfile.TemporaryDirectory() as place:
        Path(place, "answers.py").write_text(APP)
        command = ["-m", "uvicorn", "answers:app", "--port", str(port), "--log-level", "error", "--no-access-log"]
        server = subprocess.Popen([sys.executable, *command], cwd=place)
        try:
            url = f"http://127.0.0.1:{port}/"
            _wait(url)
            print("  rate  achieved  lost  late  p50 ms  p99 ms  lag ms  CPU µs")
            for rate in RATES:
                _gapless(url, rate, options.length)
            _wrk(url, options.length)
        finally:
            server.terminate()
            server.wait()


def _gapless(url: str, rate: int, length: str) -> None:
    before = _cpu_s()
    command = ["-m", "gapless", "load", url, "--rate", str(rate), "--for", length, "--json"]
    done = subprocess.run([sys.executable, *command], capture_output=True, check=False)
    cpu_s = _cpu_s() - before
    found = json.loads(done.stdout)
    print(
        f"{rate:>6} {found['rate']:>9.1f} {found['lost_total']:>5} {found['late']:>5} {found['p50_s'] * 1e3:>7.2f} "
        f"{found['p99_s'] * 1e3:>7.2f} {found['lag_s'] * 1e3:>7.2f} {cpu_s / found['requests'] * 1e6:>7.0f}"
    )


def _wrk(url: str, length: str) -> None:
    if not shutil.which("wrk"):
        print("wrk is not installed: no comparison")
        return
    done = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{length}", "--latency", url], capture_output=True, text=True, check=False
    )
    print("wrk (closed loop, as fast as it goes: its latencies leave out what waits):")
    print(done.stdout)


def _cpu_s() -> float:
    """Of all children that have ended, start-up included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait(url: str) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except urllib.error.URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    main()

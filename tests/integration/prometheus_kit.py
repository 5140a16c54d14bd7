"""A real Prometheus (Debian's), with made-up points in it or scraping us."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.ports import free_port

LIMIT_S = 60.0
NEEDED = "apt-get install -y --no-install-recommends prometheus"


def until(condition: Callable[[], Any], what: str, shown: Callable[[], str] = str) -> Any:
    """What the condition comes to, once that is true."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except OSError:
            pass  # it is still starting
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {LIMIT_S} s\n{shown()}")


def backfill(directory: Path, openmetrics: str) -> None:
    """Put these samples (with time stamps) into a data directory."""
    source = directory / "points.txt"
    source.write_text(openmetrics)
    promtool("tsdb", "create-blocks-from", "openmetrics", str(source), str(directory / "data"))


def promtool(*arguments: str) -> str:
    assert shutil.which("promtool"), NEEDED
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def prometheus(directory: Path, config: str = "", *options: str) -> Iterator[str]:
    """Its address, once it is ready."""
    assert shutil.which("prometheus"), NEEDED
    port, log = free_port(), directory / "prometheus.log"
    (directory / "prometheus.yml").write_text(config or "global: {}\n")
    argv = ["prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*argv, f"--web.listen-address=127.0.0.1:{port}", *options], stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: urllib.request.urlopen(f"{url}/-/ready", timeout=5).status == 200, "Prometheus", log.read_text)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(url: str, path: str, **query: str) -> Any:
    """The `data` of an answer of its API."""
    asked = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{asked}", timeout=LIMIT_S) as answer:
        return json.load(answer)["data"]

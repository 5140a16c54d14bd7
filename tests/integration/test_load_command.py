"""`gapless load` as a program: exit status, summary, log, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-c", "import typer; from gapless.cli.load import load_command; typer.run(load_command)"]


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(500 if self.path == "/broken" else 201)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-gapless-release", f"r{self.headers['x-user-id']}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *args], capture_output=True, text=True, timeout=30, check=False)


def test_nothing_lost_is_exit_0_and_the_log_has_every_request(url: str, tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    body = '{"n": {n}, "key": "{uuid}"}'
    more = ["--users", "3", "--expect", "201", "--expect-body", '"n": \\d+', "--log", str(log)]
    done = run(f"{url}/orders", "--for", "500ms", "--rate", "60", "--body", body, "--json", *more)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert summary["requests"] == summary["answered"] == len(records) == 30
    assert {record["release"] for record in records} <= {"r0", "r1", "r2"}
    assert all(record["release"] == f"r{record['user']}" for record in records)
    assert len({record["uuid"] for record in records}) == 30
    assert sum(release["requests"] for release in summary["by_release"].values()) == 30


def test_something_lost_is_exit_1_with_the_cause(url: str) -> None:
    done = run(f"{url}/broken", "-X", "POST", "--for", "300ms", "--rate", "20")
    assert done.returncode == 1, done.stderr
    assert "6 (6 5xx)" in done.stdout


@pytest.mark.parametrize(
    "wrong",
    [["https://127.0.0.1/"], ["http://127.0.0.1:9/", "--for", "x"], ["http://127.0.0.1:9/", "--log", "/nowhere/log"]],
)
def test_wrong_usage_is_a_configuration_error(wrong: list[str]) -> None:
    done = run(*wrong)
    assert done.returncode != 0
    assert "ConfigError" in done.stderr, "the frame turns it into exit 2 and its remedy"


def test_ctrl_c_ends_early_with_the_summary(url: str) -> None:
    process = subprocess.Popen(
        [*PROGRAM, f"{url}/orders", "-X", "POST", "--for", "60s", "--rate", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    threading.Timer(2.0, process.send_signal, [signal.SIGINT]).start()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "answered" in out

"""`gapless registry`, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 20.0


class Registry:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.said: dict[str, Any] = json.loads(process.stdout.readline() or "{}")

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(self.said["http"][0] + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@contextmanager
def running(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Registry]:
    argv = [sys.executable, "-m", "gapless", "registry", "--json", "--http", "127.0.0.1:0", *options]
    process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    try:
        yield Registry(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_it_says_when_it_is_ready_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, "--node", "n7", "--datacenter", "here") as registry:
        assert registry.said["ready"] is True
        assert (registry.said["node"], registry.said["datacenter"]) == ("n7", "here")
        assert registry.said["pid"] == registry.process.pid
        status, body = registry.ask("GET", "/v1/agent/self")
        assert (status, json.loads(body)["Config"]["NodeName"]) == (200, "n7")
        registry.process.send_signal(signal.SIGINT)
        assert registry.process.wait(PATIENCE_S) == 0
        assert registry.process.stdout is not None
        assert json.loads(registry.process.stdout.read()) == {"stopped": True}


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    with running(tmp_path) as registry:
        assert registry.ask("PUT", "/v1/kv/a", b"x") == (200, b"true")
        before = json.loads(registry.ask("GET", "/v1/kv/a")[1])
        registry.process.kill()
    with running(tmp_path) as registry:
        assert json.loads(registry.ask("GET", "/v1/kv/a")[1]) == before


def test_who_waits_is_answered_at_the_end(tmp_path: Path) -> None:
    with running(tmp_path) as registry:
        registry.ask("PUT", "/v1/kv/a", b"x")
        watch = subprocess.Popen(
            [sys.executable, "-c", WATCH, registry.said["http"][0] + "/v1/kv/a?index=1000&wait=60s"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watch.stdout is not None
        assert watch.stdout.readline() == "asked\n"
        registry.process.send_signal(signal.SIGTERM)
        assert json.loads(watch.communicate(timeout=PATIENCE_S)[0])[0]["Value"] == "eA=="
        assert registry.process.wait(PATIENCE_S) == 0


WATCH = """
import http.client, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(url.netloc)
connection.request("GET", f"{url.path}?{url.query}")
print("asked", flush=True)
print(connection.getresponse().read().decode())
"""


def test_leave_ends_it(tmp_path: Path) -> None:
    with running(tmp_path, "--store", "memory:") as registry:
        assert registry.ask("PUT", "/v1/agent/leave") == (200, b"")
        assert registry.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("bind", ["0.0.0.0:0", ":0"])
def test_others_can_reach_it_only_with_a_token(tmp_path: Path, bind: str) -> None:
    argv = [sys.executable, "-m", "gapless", "registry", "--http", bind, "--store", "memory:"]
    refused = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert refused.returncode == 2
    assert "GAPLESS_REGISTRY_TOKEN" in refused.stderr
    secret = {"GAPLESS_REGISTRY_TOKEN": "geheim"}
    with running(tmp_path, "--http", bind, "--store", "memory:", env=secret) as registry:
        assert registry.ask("GET", "/v1/status/leader") == (403, b"Permission denied")
        assert registry.ask("GET", "/v1/status/leader", **{"X-Consul-Token": "geheim"})[0] == 200


def test_a_taken_address_is_told(tmp_path: Path) -> None:
    with running(tmp_path, "--store", "memory:") as registry:
        taken = registry.said["http"][0].removeprefix("http://")
        argv = [sys.executable, "-m", "gapless", "registry", "--http", taken, "--store", "memory:"]
        refused = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert refused.returncode == 6
        assert taken in refused.stderr

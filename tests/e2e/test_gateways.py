"""A second gateway beside that of `gapless up`, under load through both: a deploy, a dead control plane, a drain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import LIMIT_S, System, lost, until
from tests.ports import free_port

AWAY_S = 3.0
"""How long the control plane is dead."""


class Second:
    """`gapless gateway run`."""

    def __init__(self, system: System, token: Path, control: int) -> None:
        self.port = free_port()
        self.output = system.directory / "second.log"
        self._control, self._token, self._system = control, token, system

    def start(self) -> None:
        where = ["--control", f"127.0.0.1:{self._control}", "--listen", f"127.0.0.1:{self.port}"]
        argv = [sys.executable, "-m", "gapless", "gateway", "run", *where, "--token-file", str(self._token)]
        argv += ["--state", str(self._system.directory / "e"), "--name", "second"]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(argv, stdout=output, stderr=output, cwd=self._system.directory)
        until(lambda: self.process.poll() is not None or self.said("ready"), "ready", self.output)
        assert self.process.poll() is None, self.output.read_text()

    def said(self, word: str) -> bool:
        return word in self.output.read_text().splitlines()

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT_S)


@pytest.fixture
def system(short_dir: Path) -> Iterator[System]:
    found = System(short_dir, strategy="rolling")
    token = short_dir / "token"
    token.write_text("only-ours\n")
    door = f'xds: {{listen: "127.0.0.1:{free_port()}", token: "secret:file:{token}"}}'
    text = found.file.read_text().replace(f'"127.0.0.1:{found.port}"', f'"127.0.0.1:{found.port}", {door}')
    found.file.write_text(text)
    found.up()
    try:
        yield found
    finally:
        found.down()


@contextmanager
def load(port: int, log: Path) -> Iterator[list[dict[str, Any]]]:
    """Requests through a gateway as long as the block runs; afterwards the list holds each of them."""
    argv = [sys.executable, "-m", "gapless", "load", f"http://127.0.0.1:{port}/", "--rate", "40", "--connections", "6"]
    options = ["--for", "900s", "--users", "400", "--log", str(log)]
    process = subprocess.Popen(argv + options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: list[dict[str, Any]] = []
    try:
        until(log.exists, "the load's first request", log)
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
    found += [json.loads(line) for line in log.read_text().splitlines()]


def obeying(system: System) -> set[str]:
    """Names of the gateways, if all of them obey the same table."""
    rows = system.json("gateway", "status")["gateways"]
    same = len({row["acknowledged"] for row in rows}) == 1 and not any(row["lagging"] for row in rows)
    return {row["node"] for row in rows} if same else set()


def test_two_gateways_under_load_lose_nothing(system: System, short_dir: Path) -> None:
    control = int(system.file.read_text().partition('xds: {listen: "127.0.0.1:')[2].partition('"')[0])
    second = Second(system, short_dir / "token", control)
    second.start()
    try:
        with load(system.port, short_dir / "1.jsonl") as first, load(second.port, short_dir / "2.jsonl") as other:
            done = system.deploy("v2")
            assert done.returncode == 0, done.stdout + done.stderr
            assert obeying(system) == {"gapless", "second"}
            system.kill_control()
            time.sleep(AWAY_S)
            system.up()
            until(lambda: obeying(system) == {"gapless", "second"}, "both gateways", system.output)
        for requests in (first, other):
            assert lost(requests) == []
            assert len({request["release"] for request in requests}) == 2
    finally:
        status = second.end()
    assert status == 0, second.output.read_text()
    assert second.output.read_text().splitlines()[-2:] == ["stopping", "stopped"]
    assert not [pid for pid in os.listdir("/proc") if pid.isdecimal() and _mentions(pid, short_dir / "e")]


def _mentions(pid: str, state: Path) -> bool:
    try:
        return f"GAPLESS_GATEWAY={state}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False

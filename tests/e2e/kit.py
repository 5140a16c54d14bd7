"""A small system for end-to-end tests: one service behind a real Envoy, run and steered by the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port

APP = '''\
"""Answers who it is; FAULT tells what is wrong with it."""
import itertools, os

FAULT, NAME, COUNT = {fault!r}, {name!r}, itertools.count()
if FAULT == "import":
    import no_such_package

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    bad = FAULT == "errors" and next(COUNT) % 2
    await send({{"type": "http.response.start", "status": 500 if bad else 200, "headers": []}})
    await send({{"type": "http.response.body", "body": NAME.encode()}})

if FAULT == "unready":
    from gapless import Service
    app = Service(app=app)

    @app.check
    async def database():
        raise RuntimeError("the database is not migrated")
'''

CONFIG = """\
system: tiny
gateway: {{listen: "127.0.0.1:{port}"}}
services:
  web:
    app: web:app
    source: {source}
    instances: 2
    routes: [/]
    start: {start}
    drain: 5s
    rollout: {{strategy: {strategy}, steps: [30%, 100%], hold: 500ms, samples: 10, power: 0%, patience: 60s}}
"""

LIMIT_S = 60.0
ANSWER_S = 10.0


class System:
    """One directory with a gapless.yaml, the releases' sources and the state."""

    def __init__(self, directory: Path, strategy: str = "canary", start: str = "20s") -> None:
        self.directory = directory
        self.state = directory / "s"
        self.port = free_port()
        self.file = directory / "gapless.yaml"
        self.source("v1")
        self.file.write_text(
            CONFIG.format(port=self.port, source=self.directory / "v1", strategy=strategy, start=start)
        )
        self.output = directory / "up.log"
        self.inside: tuple[str, ...] = ()
        """Before `gapless up`: on which machine it runs."""
        self._up: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def source(self, name: str, fault: str = "") -> Path:
        """The directory of a release that answers its name."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        (path / "web.py").write_text(APP.format(fault=fault, name=name))
        return path

    def start_up(self, *more: str) -> subprocess.Popen[bytes]:
        """`gapless up`, not waited for."""
        if self._up is not None:
            self._up.wait(LIMIT_S)
        with self.output.open("ab") as output:
            argv = [*self.inside, *self.argv("up", *more)]
            self._up = subprocess.Popen(argv, stdout=output, stderr=output, cwd=self.directory)
        return self._up

    def up(self) -> None:
        """`gapless up`, until it is ready."""
        process = self.start_up()
        until(lambda: process.poll() is not None or self.ready(), "ready", self.output)
        assert process.poll() is None, self.output.read_text()

    def ready(self) -> bool:
        done = self.run("status", "--json")
        return done.returncode == 0 and bool(json.loads(done.stdout)["ready"])

    def kill_control(self) -> None:
        assert self._up is not None
        self._up.kill()
        self._up.wait()

    def kill_instance(self, leader: int) -> None:
        """All its processes at once: workers are in process groups of their own, and would drain."""
        for pid in self.processes():
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)

    def interrupt(self, times: int = 1) -> int:
        """Ctrl-C; returns the exit status."""
        assert self._up is not None
        for _ in range(times):
            self._up.send_signal(signal.SIGINT)
            time.sleep(0.2)
        return self._up.wait(LIMIT_S)

    def down(self) -> None:
        """End everything, whatever state it is in, and see that it has ended."""
        done = self.run("down")
        assert done.returncode == 0 or "nothing was started" in done.stderr, done.stderr + self.output.read_text()
        if self._up is not None:
            self._up.wait(LIMIT_S)
        assert self.processes() == []

    def run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(verb, *arguments), capture_output=True, text=True, cwd=self.directory, timeout=2 * LIMIT_S
        )

    def json(self, verb: str, *arguments: str) -> Any:
        done = self.run(verb, *arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def told(self, path: str) -> Any:
        """What the command line would be told; None when nobody can tell. For questions that are asked again and again:
        an interpreter for each would take the processor from those who are to come to the answer."""
        return asked(self.state / "control.sock", path)

    def status(self) -> Any:
        return self.told("/v1/status")

    def rollout(self, name: str = "web") -> Any:
        """The newest one of a service; nothing when there was none, or nobody can tell."""
        found = self.told(f"/v1/rollouts?name={name}")
        return found[0] if isinstance(found, list) and found else {}

    def deploy(self, name: str, fault: str = "", *more: str) -> subprocess.CompletedProcess[str]:
        return self.run("deploy", "web", "--release", name, "--from", str(self.source(name, fault)), *more)

    def ended_rollout(self) -> Any:
        """The newest rollout, once it has ended."""
        ended = ("promoted", "rolled back")
        until(lambda: self.rollout().get("state") in ended, "the rollout's end", self.output)
        return self.json("rollout", "web")

    def processes(self) -> list[int]:
        """Everything that carries this system's state directory in its environment or its command line."""
        mark = os.fsencode(self.state)
        return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and _mentions(int(entry), mark)]

    @contextmanager
    def load(self, rate: int = 60) -> Iterator[list[dict[str, Any]]]:
        """Requests at a steady rate as long as the block runs; afterwards the list holds each of them."""
        log = self.directory / "load.jsonl"
        log.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "gapless", "load", self.url, "--rate", str(rate), "--connections", "8"]
        options = ["--for", "900s", "--users", "400", "--log", str(log)]
        process = subprocess.Popen(argv + options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        requests: list[dict[str, Any]] = []
        try:
            until(log.exists, "the load's first request", self.output)
            yield requests
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(LIMIT_S)
        requests += [json.loads(line) for line in log.read_text().splitlines()]

    def argv(self, verb: str, *arguments: str) -> list[str]:
        where = ["--file", str(self.file), "--state", str(self.state)]
        return [sys.executable, "-m", "gapless", verb, *arguments, *where]


def lost(requests: list[dict[str, Any]], but_for: str = "") -> list[dict[str, Any]]:
    """Requests that were lost, other than those that a release (which deserves it) answered wrongly itself."""
    return [r for r in requests if r["cause"] and not (but_for and r["release"] == but_for)]


def asked(path: Path, what: str = "/v1/status") -> Any:
    """What whoever listens there tells; nothing when nobody does."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(str(path))
            connection.sendall(f"GET {what} HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n".encode())
            while chunk := connection.recv(65_536):
                answer += chunk
    except OSError:
        return None
    body = answer.partition(b"\r\n\r\n")[2]
    return json.loads(body) if body else None


def until(condition: Any, what: str, log: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {LIMIT_S} s\n{log.read_text() if log.exists() else ''}")
        time.sleep(0.05)


def _mentions(pid: int, mark: bytes) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if stat in "ZX" or pid == os.getpid():
            return False
        return mark in Path(f"/proc/{pid}/environ").read_bytes() or mark in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False

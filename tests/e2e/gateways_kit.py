"""Further gateways for end-to-end tests, and requests through each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.kit import LIMIT_S, System, until


class Edge:
    """`gapless gateway run`, perhaps on a machine of its own."""

    def __init__(self, token: Path, name: str, listen: str, *controls: str, inside: Sequence[str] = ()) -> None:
        """`inside`: before its command. Beside the file with the token are its log and its state."""
        self.name, self.listen, self.inside = name, listen, tuple(inside)
        self.output = token.parent / f"{name}.log"
        self.state = token.parent / name
        self._controls, self._token = controls, token
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.listen}/"

    def start(self, *more: str) -> None:
        """Until it says that it is ready."""
        asked = [word for control in self._controls for word in ("--control", control)]
        argv = [sys.executable, "-m", "gapless", "gateway", "run", *asked, "--listen", self.listen]
        argv += ["--token-file", str(self._token), "--state", str(self.state), "--name", self.name, *more]
        before = self._ready()
        with self.output.open("ab") as output:
            self.process = subprocess.Popen([*self.inside, *argv], stdout=output, stderr=output, cwd=self.output.parent)
        process = self.process
        until(lambda: process.poll() is not None or self._ready() > before, "ready", self.output)
        assert process.poll() is None, self.output.read_text()

    def _ready(self) -> int:
        return self.output.read_text().splitlines().count("ready") if self.output.exists() else 0

    def kill(self) -> None:
        """kill -9; its Envoy stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(LIMIT_S)

    def end(self) -> int:
        """Ctrl-C; its exit status. One that was killed is started again first, for its Envoy must not stay."""
        if self.process is None:
            return 0
        if self.process.poll() == -signal.SIGKILL:
            self.start()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT_S)

    @property
    def envoys(self) -> set[int]:
        """Pids of its Envoys that run."""
        return {int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and self._is_ours(pid)}

    def _is_ours(self, pid: str) -> bool:
        try:
            dead = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            return not dead and self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    @property
    def _mark(self) -> bytes:
        return f"GAPLESS_GATEWAY={self.state}".encode()


@contextmanager
def load(edge: Edge | System, log: Path, rate: int = 40) -> Iterator[list[dict[str, Any]]]:
    """Requests through a gateway as long as the block runs; afterwards the list holds each of them."""
    url = edge.url
    argv = [*edge.inside, sys.executable, "-m", "gapless", "load", url, "--rate", str(rate), "--connections", "6"]
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


def rows(system: System) -> dict[str, dict[str, Any]]:
    """The gateways that are connected, by name."""
    return {row["node"]: row for row in system.json("gateway", "status")["gateways"]}


def obeying(system: System) -> set[str]:
    """Names of the gateways, if all of them obey the same table."""
    found = rows(system)
    same = len({row["acknowledged"] for row in found.values()}) == 1
    return set(found) if same and not any(row["lagging"] for row in found.values()) else set()


def with_door(system: System, listen: str, token: Path, more: str = "") -> None:
    """Have its gapless.yaml serve gateways elsewhere; `more`: further lines of it."""
    token.write_text("only-ours\n")
    door = f'xds: {{listen: "{listen}", token: "secret:file:{token}"}}'
    text = system.file.read_text().replace(f'"127.0.0.1:{system.port}"', f'"127.0.0.1:{system.port}", {door}')
    system.file.write_text(text + more)

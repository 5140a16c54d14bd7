"""A real etcd for tests: one server or a cluster, on loopback in a directory of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.ports import free_port

PACKAGE = "etcd is not installed: apt-get install -y etcd-server (and stop the service that it starts)"
START_S = 30.0


class EtcdServer:
    """One member. `kill` keeps its data, and `start` goes on with it."""

    def __init__(self, name: str, folder: Path, peers: dict[str, int], *options: str, scheme: str = "http") -> None:
        self.name, self.port = name, free_port()
        self.client = f"{scheme}://127.0.0.1:{self.port}"
        peer = f"http://127.0.0.1:{peers[name]}"
        self._argv = [
            *("--name", name, "--data-dir", str(folder / name)),
            *("--listen-client-urls", self.client, "--advertise-client-urls", self.client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", ",".join(f"{one}=http://127.0.0.1:{port}" for one, port in peers.items())),
            *("--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync"),
            *options,
        ]
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = shutil.which("etcd")
        assert binary, PACKAGE
        argv = [word for word in [binary, *self._argv] if word != "--unsafe-no-fsync"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def healthy(self) -> bool:
        """It answers, and has a leader. Over TLS only that it listens can be seen from here."""
        if self.client.startswith("https"):
            return b"ready to serve client requests" in self._log.read_bytes().replace(b"serving", b"ready to serve")
        try:
            with urllib.request.urlopen(f"{self.client}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        except (urllib.error.URLError, OSError):
            return False

    def status(self) -> dict[str, Any]:
        """What it says of itself; `leader` and `header.member_id` are numbers as text."""
        request = urllib.request.Request(f"{self.client}/v3/maintenance/status", b"{}")
        with urllib.request.urlopen(request, timeout=5) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while not self.healthy():
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.02)


class Etcd:
    """`with Etcd(3) as etcd: …etcd.address…`."""

    def __init__(self, members: int = 1, *options: str, scheme: str = "http") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="g-etcd-"))
        peers = {f"m{number}": free_port() for number in range(members)}
        self.members = [EtcdServer(name, self._folder, peers, *options, scheme=scheme) for name in peers]
        self._stores = 0

    def __enter__(self) -> Etcd:
        try:
            for member in self.members:
                member.start()
            for member in self.members:
                member.wait_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def servers(self) -> str:
        return ",".join(f"127.0.0.1:{member.port}" for member in self.members)

    def leader(self) -> EtcdServer:
        """The member that leads the others."""
        statuses = {member: member.status() for member in self.members}
        return next(m for m, status in statuses.items() if status["leader"] == status["header"]["member_id"])

    def address(self) -> str:
        """Of a store that nobody has used before."""
        self._stores += 1
        return f"etcd://{self.servers}/test-{self._stores}/"

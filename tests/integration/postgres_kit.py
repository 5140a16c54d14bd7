"""A PostgreSQL of the test's own: in a directory of its own, on a loopback port, as user postgres when we are root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

START_S = 30.0
ACCOUNT = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this account."""


def program(name: str) -> str:
    """Of the newest version that is installed."""
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), *filter(None, [shutil.which(name)])]
    assert found, f"{name} is missing: apt-get install postgresql"
    return str(found[-1])


class Postgres:
    """`start`, `crash` and `stop` may be called in any order and any number of times."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port("127.0.0.1")
        self.process: subprocess.Popen[bytes] | None = None
        self._as = {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(directory, ACCOUNT, ACCOUNT)

    @property
    def dsn(self) -> str:
        return f"postgresql://{ACCOUNT}@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        argv = [program("initdb"), "-D", str(self.directory / "data"), "-U", ACCOUNT, "-A", "trust", "--no-sync"]
        made = self._run([*argv, "--locale=C", "-E", "UTF8"])
        assert made.returncode == 0, made.stdout

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "20",
            "shared_buffers": "16MB",
            "autovacuum": "off",
        }
        argv = [program("postgres"), "-D", str(self.directory / "data")]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/", **self._as)
        self._await_ready()

    def crash(self) -> None:
        """Immediate shutdown: every backend ends at once, in the middle of what it does."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            process.wait(START_S)

    def _await_ready(self) -> None:
        until = time.monotonic() + START_S
        argv = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while self._run(argv).returncode != 0:
            assert self.process is not None
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < until, "PostgreSQL did not start"
            time.sleep(0.05)

    def _run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd="/", **self._as
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="g-pg-"))
    server = Postgres(directory)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)

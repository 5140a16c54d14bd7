"""The servers that `reload.py` compares: how each is started, and how it is told to run new code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapless.server.admin.ask import ask

WORKERS = 2
APP = """
import asyncio, random, time
time.sleep(0.5)

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await asyncio.sleep(random.random() * 0.02)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
NGINX = """
daemon off; worker_processes %d; pid nginx.pid; error_log stderr;
events { worker_connections 20000; }
http { access_log off; keepalive_timeout 75; keepalive_requests 1000000;
  server { listen 127.0.0.1:%d backlog=1024; location / { return 200 "ok"; } } }
"""
PATIENCE_S = 60.0
SETTLE_S = 3.0
"""What a server that does not tell when its reload is done gets before the next thing happens."""


@dataclass(frozen=True, slots=True)
class Server:
    """`reload` returns the seconds of each stage, as far as the server tells."""

    name: str
    argv: Callable[[int], list[str]]
    reload: Callable[[Running], dict[str, float]]


class Running:
    """A server in a directory of its own."""

    def __init__(self, server: Server, folder: Path, port: int) -> None:
        self.server = server
        self.folder = folder
        self.port = port
        (folder / "app.py").write_text(APP)
        (folder / "nginx.conf").write_text(NGINX % (WORKERS, port))
        with open(folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                server.argv(port), cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def admin(self, method: str, path: str) -> Any:
        said = ask(str(self.folder / "a.sock"), method, path, PATIENCE_S)
        if said.status != 200:
            raise SystemExit(f"{method} {path} was refused: {said.body}")
        return said.body

    def end(self) -> None:
        self.signal(signal.SIGTERM)
        if self.pid != self._process.pid:  # by now another master serves, which is not ours to wait for
            self._process.wait(PATIENCE_S)
            wait_until(lambda: not Path(f"/proc/{self.pid}").exists() or zombie(self.pid))
            return
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(PATIENCE_S)


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise SystemExit("waited in vain for a server")
        time.sleep(0.02)


def by_admin(running: Running) -> dict[str, float]:
    return {stage["name"]: stage["took_s"] for stage in running.admin("POST", "/reload")["stages"]}


def by_hup(running: Running) -> dict[str, float]:
    running.signal(signal.SIGHUP)
    time.sleep(SETTLE_S)
    return {}


def by_usr2_and_term(running: Running) -> dict[str, float]:
    """A second master, and the end of the first when the second has had time to start its workers."""
    old, file = running.pid, running.folder / "pid"
    running.signal(signal.SIGUSR2)
    wait_until((running.folder / "pid.2").exists)
    time.sleep(SETTLE_S / 2)
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: file.exists() and file.read_text().strip() not in ("", str(old)))
    running.pid = int(file.read_text())
    time.sleep(SETTLE_S / 2)
    return {}


def python(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", module, *words]


def gapless(port: int) -> list[str]:
    where = ("--bind", f"127.0.0.1:{port}", "--admin", "unix:a.sock")
    return python("gapless", "serve", "app:app", *where, "--workers", str(WORKERS))


def gunicorn(port: int) -> list[str]:
    where = ("-b", f"127.0.0.1:{port}", "--pid", "pid", "--keep-alive", "75", "--log-level", "warning")
    # By its script: what is executed anew at USR2 is argv[0], and a module is not found by that.
    script = str(Path(sys.executable).parent / "gunicorn")
    return [script, "-k", "asgi", "-w", str(WORKERS), *where, "app:app"]


def uvicorn(port: int) -> list[str]:
    quiet = ("--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75")
    return python("uvicorn", "app:app", "--port", str(port), "--workers", str(WORKERS), *quiet)


def granian(port: int) -> list[str]:
    return python(
        "granian", "--interface", "asgi", "--port", str(port), "--workers", str(WORKERS), "--no-ws", "app:app"
    )


def hypercorn(port: int) -> list[str]:
    return python("hypercorn", "-b", f"127.0.0.1:{port}", "-w", str(WORKERS), "--keep-alive", "75", "app:app")


def nginx(port: int) -> list[str]:
    if shutil.which("nginx") is None:
        raise SystemExit("nginx is not installed: install the Debian package nginx-light, or leave it out with --only")
    return ["nginx", "-p", ".", "-c", "nginx.conf"]


SERVERS = (
    Server("gapless", gapless, by_admin),
    Server("gunicorn HUP", gunicorn, by_hup),
    Server("gunicorn USR2", gunicorn, by_usr2_and_term),
    Server("uvicorn HUP", uvicorn, by_hup),
    Server("granian HUP", granian, by_hup),
    Server("hypercorn HUP", hypercorn, by_hup),
    Server("nginx HUP", nginx, by_hup),
)
"""Ours first; all others are compared with it."""

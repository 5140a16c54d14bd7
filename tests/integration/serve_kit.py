"""Real servers for the tests: `gapless serve` in a directory of its own, with an app that does as it is asked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gapless.core.world import RealWorld
from gapless.load import Load, LoadSpec, Summary
from gapless.server.listen.bind import connected
from tests.ports import free_port

PATIENCE_S = 40.0
"""For a start on a machine that does other things at the same time."""

APP = """
import asyncio, os, time
VERSION = "1"

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                print("closed by", os.getpid(), flush=True)
                return
    path, _, argument = scope["path"][1:].partition("/")
    if path == "sleep":
        await asyncio.sleep(float(argument))
    elif path == "block":
        time.sleep(float(argument))
    elif path == "exit":
        os._exit(3)
    elif path in ("stream", "endless"):
        await stream(send, b"text/event-stream" if path == "stream" else b"application/octet-stream")
        return
    elif path == "echo":
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await answer(send, body)
        return
    elif path == "client":
        await answer(send, repr((scope["client"], scope["scheme"])).encode())
        return
    await answer(send, f"{VERSION} {os.getpid()}".encode())

async def answer(send, body):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

async def stream(send, kind):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    while True:
        await send({"type": "http.response.body", "body": b"data: tick\\n\\n", "more_body": True})
        await asyncio.sleep(0.05)
"""


class Server:
    """One `gapless serve` and what can be asked of it."""

    def __init__(
        self, folder: Path, *options: str, app: str = APP, port: int | None = None, target: str = "app:app"
    ) -> None:
        self.folder = folder
        self.port = free_port("127.0.0.1") if port is None else port
        self.admin = str(folder / "a.sock")
        self.write(app)
        bind = [] if "--bind" in options else ["--bind", f"127.0.0.1:{self.port}"]
        command = [
            sys.executable,
            "-m",
            "gapless",
            "serve",
            target,
            *bind,
            "--admin",
            f"unix:{self.admin}",
            *options,
        ]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        self.pid = self.process.pid

    def write(self, app: str) -> None:
        write_code(self.folder / "app.py", app)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def wait_ready(self) -> Server:
        until(lambda: "Serving" in self.out or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.err
        return self

    def wait(self, limit_s: float = PATIENCE_S) -> int:
        """Its exit code."""
        return self.process.wait(limit_s)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ask(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body from the admin socket."""
        return exchange(connected(self.admin), f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    def get(self, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
        """The same from the service itself, on a connection of its own."""
        head = "".join(f"{header}\r\n" for header in headers)
        return exchange(self.connect(), f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n".encode())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.ask("/status")[2])
        return body

    def workers(self) -> list[int]:
        """Pids of those that serve."""
        return [worker["pid"] for worker in self.status()["workers"] if worker["phase"] == "serving"]

    @property
    def master(self) -> int:
        """Its pid; `pid` is the keeper's."""
        return int(self.status()["master"])

    def others(self) -> list[int]:
        """Living processes of the server beside keeper and master: workers, unless something was left behind."""
        status = self.status()
        return sorted(set(session(self.pid)) - {status["pid"], status["master"]})

    def reload(self) -> tuple[int, dict[str, Any]]:
        status, _, body = self.ask("/reload", "POST")
        return status, json.loads(body)

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        lines = self.ask("/metrics")[2].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def counts(self, name: str, expected: float) -> None:
        """The metric comes to this: a request is counted a moment after its client has the answer."""
        until(lambda: self.metric(name) == expected, f"{name} is {expected:g}")

    def says(self, words: str) -> None:
        """The words are in the log: no line is waited for where it is written."""
        until(lambda: words in self.err, f"the log says {words!r}")

    def kill_both(self) -> None:
        """Keeper and master, so that neither has the time to replace the other."""
        both = (self.master, self.pid)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in both:
                os.kill(pid, number)

    def end(self) -> None:
        """Whatever the test left running, by pid; again and again, because keeper and master replace each other."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        while left := session(self.pid):
            for pid in left:
                kill(pid)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def served(folder: Path, *options: str, app: str = APP, target: str = "app:app") -> Iterator[Server]:
    """A server that is ready."""
    server = Server(folder, *options, app=app, target=target)
    try:
        yield server.wait_ready()
    finally:
        server.end()


def exchange(sock: socket.socket, request: bytes) -> tuple[int, dict[str, str], bytes]:
    with sock:
        sock.settimeout(PATIENCE_S)
        sock.sendall(request)
        data = b""
        while received := sock.recv(65_536):
            data += received
    return parse(data)


def parse(data: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value for name, _, value in pairs}, body


def request(sock: socket.socket, path: str) -> tuple[int, dict[str, str], bytes]:
    """One request on a kept connection whose answers have a length."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    return response(sock)


def response(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        received = sock.recv(65_536)
        assert received, f"closed after {data!r}"
        data += received
    status, headers, body = parse(data)
    while len(body) < int(headers["content-length"]):
        body += sock.recv(65_536)
    return status, headers, body


def write_code(path: Path, text: str) -> None:
    """Each time with another second of modification: Python takes cached bytecode for valid when the second and the
    size are the same, and nobody deploys twice within one second."""
    after_s = path.stat().st_mtime + 2 if path.exists() else time.time() - 3600
    path.write_text(text)
    os.utime(path, (after_s, after_s))


def until(true: Any, what: str, limit_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def session(leader: int, *, zombies: bool = False) -> list[int]:
    """Living processes of a session, without its leader; with those that nobody has waited for, when asked."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and int(name) != leader and (zombies or fields[0] not in "ZX"):
            found.append(int(name))
    return found


def descriptors(pid: int) -> list[str]:
    """What kinds of descriptors a process has; their inodes say nothing."""
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return sorted(link.partition(":[")[0] for link in links)


class Steady:
    """Keep-alive load beside what the test does; `async with` it, then look at `summary`."""

    def __init__(self, port: int, path: str = "/", rate: float = 150.0, connections: int = 16) -> None:
        spec = LoadSpec(
            url=f"http://127.0.0.1:{port}{path}", rate=rate, connections=connections, for_s=600.0, timeout_s=20.0
        )
        self.records: list[Any] = []
        self._load = Load(spec, RealWorld(), self.records.append)
        self._stop = asyncio.Event()
        self.summary: Summary = self._load.summary()

    async def __aenter__(self) -> Steady:
        self._task = asyncio.ensure_future(self._load.run(self._stop))
        await asyncio.sleep(0.3)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.3)
        self._stop.set()
        self.summary = await self._task

    def lost(self) -> list[str]:
        return [f"{record.cause}: {record.detail}" for record in self.records if record.cause]

"""A server that is started as systemd starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.serve_kit import APP, exchange, kill, session, until

LIKE_SYSTEMD = """
import os, sys
names, command = sys.argv[1].split(":"), sys.argv[2:]
for at in range(len(names)):
    os.set_inheritable(3 + at, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
os.execv(command[0], command)
"""


@contextmanager
def passing(folder: Path, sockets: dict[str, socket.socket], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`gapless serve` with these sockets as descriptors 3, 4 …"""
    (folder / "app.py").write_text(APP)
    serve = [sys.executable, "-m", "gapless", "serve", "app:app", "--admin", f"unix:{folder}/a.sock", *options]
    ends = [socket.socket(fileno=os.dup(sock.fileno())) for sock in sockets.values()]

    def place() -> None:
        high = [os.dup2(end.fileno(), 100 + at) for at, end in enumerate(ends)]
        for at, fd in enumerate(high):
            os.dup2(fd, 3 + at)

    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", LIKE_SYSTEMD, ":".join(sockets), *serve],
            cwd=folder,
            stdout=out,
            stderr=err,
            close_fds=False,
            preexec_fn=place,
            start_new_session=True,
        )
    for end in ends:
        end.close()
    try:
        until(lambda: "Serving" in (folder / "out").read_text() or process.poll() is not None, "ready")
        assert process.poll() is None, (folder / "err").read_text()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        while left := session(process.pid):
            for pid in left:
                kill(pid)


def answer(sock: socket.socket) -> bytes:
    client = socket.create_connection(sock.getsockname(), 30)
    return exchange(client, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")[2]


def test_sockets_that_are_passed_are_served_without_an_option(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as other:
        with passing(short_dir, {"web": web, "other": other}) as process:
            assert answer(web).startswith(b"1 ")
            assert answer(other).startswith(b"1 ")
            told = [pid for pid in session(process.pid) if b"LISTEN_FDS" in Path(f"/proc/{pid}/environ").read_bytes()]
            workers = [pid for pid in told if b"server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            assert workers == [], "what the server starts does not take them for its own"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        web.setblocking(False)
        socket.create_connection(web.getsockname(), 5).close()  # it stays systemd's, for the next start


def test_one_of_them_is_chosen_by_its_name(short_dir: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as web,
        socket.create_server(("127.0.0.1", 0)) as other,
        passing(short_dir, {"web": web, "other": other}, "--bind", "fd://other") as process,
    ):
        assert answer(other).startswith(b"1 ")
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: "generation 2 serves" in (short_dir / "err").read_text(), "it has been reloaded")
        assert answer(other).startswith(b"1 ")

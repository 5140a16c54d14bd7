"""The end of a real server: what was begun is finished, what is silent holds nobody."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gapless.server.listen.bind import alive as listens
from gapless.server.master.orders import SAME_STOP_S
from tests.integration.serve_kit import APP, Server, exchange, request, response, served, session, until


def under_way(server: Server, seconds: float) -> socket.socket:
    """A connection with a request that takes so long."""
    sock = server.connect()
    sock.sendall(f"GET /sleep/{seconds} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    until(lambda: server.metric("gapless_requests_in_flight") >= 1, "it is under way")
    return sock


def ended(sock: socket.socket) -> bool:
    """By FIN or by RST: the kernel sends what it sends for a killed process."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def nothing_is_left(server: Server) -> None:
    assert session(server.pid) == []
    assert not Path(server.admin).exists()
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_sigterm_finishes_what_is_under_way_and_ends_with_0(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server, under_way(server, 2.0) as busy:
        server.signal(signal.SIGTERM)
        status, headers, _ = response(busy)
        assert (status, headers["connection"]) == (200, "close")
        assert server.wait() == 0
        assert server.out.count("closed by") == 2
        nothing_is_left(server)


def test_a_drain_says_unready_first_and_still_accepts_for_a_while(short_dir: Path) -> None:
    with served(short_dir) as server, under_way(server, 1.5):
        server.signal(signal.SIGTERM)
        until(lambda: server.ask("/readyz")[0] == 503, "it says unready")
        status, headers, body = server.get("/readyz")
        assert status == 503
        assert headers["connection"] == "close"
        assert b'"draining"' in body
        assert server.wait() == 0


def refused(server: Server) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_after_the_announcement_nothing_new_is_accepted(short_dir: Path) -> None:
    with served(short_dir) as server, under_way(server, 3.0) as busy:
        server.signal(signal.SIGTERM)
        until(lambda: refused(server), "it stops accepting")
        time.sleep(0.1)
        assert refused(server)
        assert response(busy)[0] == 200
        assert server.wait() == 0


def test_a_signal_that_arrives_twice_counts_once(short_dir: Path) -> None:
    """`timeout` sends it to the process, and then to its group."""
    with served(short_dir) as server, under_way(server, 1) as busy:
        os.kill(server.pid, signal.SIGTERM)
        os.killpg(server.pid, signal.SIGTERM)
        assert response(busy)[0] == 200
        assert server.wait() == 0


def test_the_second_signal_ends_it_at_once(short_dir: Path) -> None:
    with served(short_dir) as server, under_way(server, 60) as busy:
        server.signal(signal.SIGINT)
        until(lambda: server.status()["draining"], "it drains")
        time.sleep(2 * SAME_STOP_S)
        began = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.wait() == 130
        assert time.monotonic() - began < 5
        busy.settimeout(5)
        assert ended(busy)
        nothing_is_left(server)


def test_drain_by_the_admin_socket(short_dir: Path) -> None:
    with served(short_dir) as server:
        assert server.ask("/drain", "POST")[0] == 202
        assert server.wait() == 0


def test_silent_and_idle_connections_do_not_hold_a_drain(short_dir: Path) -> None:
    with (
        served(short_dir, "--drain", "30") as server,
        server.connect() as silent,
        server.connect() as idle,
        server.connect() as half,
    ):
        request(idle, "/")
        half.sendall(b"GET /half HTTP/1.1\r\nx-")
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - began < 10
        for sock in (silent, idle, half):
            assert sock.recv(1) == b""


def test_an_idle_connection_gets_its_last_answer_during_a_drain(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as idle, under_way(server, 2.0):
        request(idle, "/")
        server.signal(signal.SIGTERM)
        until(lambda: server.status()["draining"], "it drains")
        status, headers, _ = request(idle, "/")
        assert (status, headers["connection"]) == (200, "close")


def test_an_endless_stream_is_cut_at_the_limit(short_dir: Path) -> None:
    with served(short_dir, "--drain", "3") as server, server.connect() as stream:
        stream.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        assert stream.recv(1)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert 2 < time.monotonic() - began < 15
        assert re.search(r"over the drain limit: GET /endless, for [2-9]\.\d s", server.err)
        nothing_is_left(server)


def test_a_stop_in_the_middle_of_a_reload_ends_both_generations(short_dir: Path) -> None:
    with served(short_dir) as server:
        server.write("import time\ntime.sleep(30)\n" + APP)
        server.signal(signal.SIGUSR2)
        until(lambda: server.status()["coming"] == 2, "the reload has begun")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        nothing_is_left(server)


def test_a_stop_before_it_was_ready_ends_it(short_dir: Path) -> None:
    server = Server(short_dir, app="import time\ntime.sleep(30)\n" + APP)
    try:
        until(lambda: listens(server.admin) and server.ask("/startupz")[0] == 503, "it says that it starts")
        until(server.others, "a worker has been started")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        nothing_is_left(server)
    finally:
        server.end()


def test_ctrl_c_on_a_terminal_drains(short_dir: Path) -> None:
    """The terminal sends SIGINT to the process group of keeper and master: it must count once, and hit no worker."""
    with served(short_dir) as server, under_way(server, 1.0) as busy:
        os.killpg(server.pid, signal.SIGINT)
        assert response(busy)[0] == 200
        assert server.wait() == 0


def test_a_unix_socket_and_an_inherited_one(short_dir: Path) -> None:
    path = short_dir / "app.sock"
    with served(short_dir, "--bind", f"unix:{path}") as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            status, _, body = exchange(sock, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (status, body[:2]) == (200, b"1 ")
        assert server.reload()[0] == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not path.exists()


def test_the_default_admin_socket_and_the_pid_file(short_dir: Path) -> None:
    (short_dir / "app.py").write_text(APP)
    command = [sys.executable, "-m", "gapless", "serve", "app:app", "-b", "127.0.0.1:0", "--pid", "pid"]
    with subprocess.Popen(command, cwd=short_dir, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        line = process.stdout.readline().decode()
        assert str(short_dir / ".gapless" / "serve.sock") in line
        assert (short_dir / "pid").read_text() == f"{process.pid}\n"
        process.terminate()
        assert process.wait(30) == 0
    assert list((short_dir / ".gapless").iterdir()) == []
    assert not (short_dir / "pid").exists()


def test_the_end_of_the_terminal_is_the_end_of_the_server(short_dir: Path) -> None:
    """SIGHUP asks for a reload everywhere else."""
    (short_dir / "app.py").write_text(APP)
    ours, theirs = pty.openpty()
    take_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", take_terminal, sys.executable, "-m", "gapless", "serve", "app:app"]
    with (
        (short_dir / "out").open("wb") as out,
        subprocess.Popen(
            [*command, "-b", "127.0.0.1:0"], cwd=short_dir, stdin=theirs, stdout=out, stderr=out, start_new_session=True
        ) as process,
    ):
        os.close(theirs)
        until(lambda: b"Serving" in (short_dir / "out").read_bytes(), "ready")
        os.close(ours)
        assert process.wait(30) == 0
    assert b"SIGHUP: draining" in (short_dir / "out").read_bytes()


def test_closed_standard_descriptors_are_no_harm(short_dir: Path) -> None:
    (short_dir / "app.py").write_text(APP)
    command = f"exec {sys.executable} -m gapless serve app:app -b 127.0.0.1:0 --pid pid <&- >&- 2>err"
    with subprocess.Popen(["sh", "-c", command], cwd=short_dir) as process:
        until((short_dir / "pid").exists, "ready")
        process.terminate()
        assert process.wait(30) == 0
    assert '"level": "error"' not in (short_dir / "err").read_text()


def test_a_factory_in_another_directory_with_an_access_log(short_dir: Path) -> None:
    (short_dir / "lib").mkdir()
    (short_dir / "lib" / "shop.py").write_text(APP + "\ndef make():\n    return app\n")
    app = "from shop import make as app\n"
    with served(short_dir, "--factory", "--app-dir", "lib", "--access-log", app=app) as server:
        assert server.get("/seen?x=1")[0] == 200
        until(lambda: "GET /seen?x=1" in server.err, "the request is logged")


def test_forwarded_headers_are_believed_from_loopback(short_dir: Path) -> None:
    with served(short_dir) as server:
        body = server.get("/client", "x-forwarded-for: 192.0.2.7", "x-forwarded-proto: https")[2]
        assert body == b"(('192.0.2.7', 0), 'https')"


def test_a_body_arrives_whole(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as sock:
        body = os.urandom(300_000)
        sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body))
        sock.sendall(body)
        assert response(sock)[2] == body


def test_a_person_at_a_terminal_reads_plain_lines(short_dir: Path) -> None:
    (short_dir / "app.py").write_text(APP)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gapless", "serve", "app:app", "-b", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=short_dir, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout
        assert process.stdout.readline().startswith(b"Serving app:app on http://127.0.0.1:")
        process.terminate()
        assert process.wait(30) == 0
    text = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "generation 1 serves" in text
    assert '{"' not in text

"""Crashes of a real server's processes, and starts that fail."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

from tests.integration.serve_kit import (
    APP,
    PATIENCE_S,
    Server,
    Steady,
    alive,
    request,
    response,
    served,
    session,
    until,
)


def replaced(server: Server, victim: int) -> bool:
    pids = server.workers()
    return len(pids) == 2 and victim not in pids


async def test_a_killed_worker_loses_no_more_than_what_it_held(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        async with Steady(server.port, "/sleep/0.02") as load:
            for _ in range(3):
                victim = server.workers()[0]
                os.kill(victim, signal.SIGKILL)
                await asyncio.to_thread(until, partial(replaced, server, victim), "it is replaced")
        # Each kill may take what was in flight on it: at most one request on each connection of the load.
        assert len(load.lost()) <= 3 * 16
        assert {line.partition(":")[0] for line in load.lost()} <= {"reset", "truncated"}
        assert load.summary.answered > 100
        assert server.status()["restarts"] == 3


def test_a_killed_worker_is_replaced_at_once(short_dir: Path) -> None:
    with served(short_dir) as server:
        (victim,) = server.workers()
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        until(lambda: server.others() not in ([], [victim]), "another process has been forked")
        # 50 ms is what is promised on a quiet machine (benchmarks/reload.py shows it); here others run as well.
        assert time.monotonic() - began < 1.0
        until(lambda: len(server.workers()) == 1, "it serves")
        assert server.get("/")[0] == 200


def test_counters_do_not_go_back_when_a_worker_is_killed(short_dir: Path) -> None:
    with served(short_dir) as server:
        for _ in range(5):
            server.get("/")
        server.counts("gapless_requests_total", 5)
        os.kill(server.workers()[0], signal.SIGKILL)
        until(lambda: server.status()["restarts"] == 1 and len(server.workers()) == 1, "it is replaced")
        server.counts("gapless_requests_total", 5)
        server.get("/")
        server.counts("gapless_requests_total", 6)


def test_a_worker_that_ends_itself_is_replaced(short_dir: Path) -> None:
    with served(short_dir) as server:
        with server.connect() as sock:
            sock.sendall(b"GET /exit HTTP/1.1\r\nhost: x\r\n\r\n")
            assert sock.recv(1) == b""
        until(lambda: server.status()["restarts"] == 1 and len(server.workers()) == 1, "it is replaced")
        server.says("exit status 3")


async def test_a_worker_that_is_sent_sigterm_serves_until_another_one_does(short_dir: Path) -> None:
    with served(short_dir, app="import time\ntime.sleep(1.5)\n" + APP) as server:
        (victim,) = server.workers()
        async with Steady(server.port) as load:
            os.kill(victim, signal.SIGTERM)
            await asyncio.to_thread(until, lambda: server.workers() not in ([], [victim]), "another one serves")
        assert load.lost() == []
        assert load.summary.max_s < 1.2  # while the successor loads, somebody answers
        assert server.status()["restarts"] == 0


def test_a_worker_that_is_sent_sigterm_is_replaced_before_it_has_gone(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as busy:
        (victim,) = server.workers()
        busy.sendall(b"GET /sleep/3 HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: server.metric("gapless_requests_in_flight") == 1, "it is under way")
        os.kill(victim, signal.SIGTERM)
        until(lambda: server.workers() not in ([], [victim]), "another one serves")
        assert alive(victim)
        assert response(busy)[2] == b"1 %d" % victim
        assert server.status()["restarts"] == 0


def test_workers_whose_keeper_and_master_are_killed_at_once_finish_and_leave(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2", "--drain", "10") as server, server.connect() as busy:
        workers = server.workers()
        busy.sendall(b"GET /sleep/1 HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: server.metric("gapless_requests_in_flight") == 1, "it is under way")
        server.kill_both()
        assert response(busy)[0] == 200
        until(lambda: not any(map(alive, workers)), "the workers have gone", limit_s=12)


def test_a_blocked_worker_whose_keeper_and_master_are_killed_at_once_does_not_stay(short_dir: Path) -> None:
    with served(short_dir, "--drain", "1") as server, server.connect() as busy:
        workers = server.workers()
        busy.sendall(b"GET /block/600 HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.3)
        server.kill_both()
        until(lambda: not any(map(alive, workers)), "the worker has gone", limit_s=15)


def failed(folder: Path, app: str, *options: str) -> Server:
    server = Server(folder, *options, app=app)
    try:
        server.wait()
    finally:
        server.end()
    assert session(server.pid) == []
    assert not Path(server.admin).exists()
    return server


def test_a_start_whose_app_cannot_be_imported_ends_with_4_and_the_traceback(short_dir: Path) -> None:
    server = failed(short_dir, "def f():\n    return no_such_name\nf()\n", "--workers", "2")
    assert server.process.returncode == 4
    assert server.err.count("NameError: name 'no_such_name' is not defined") == 1
    server.says("in f")


def test_a_start_whose_app_ends_the_process_ends_with_4(short_dir: Path) -> None:
    server = failed(short_dir, "import os\nos._exit(0)\n")
    assert server.process.returncode == 4
    server.says("exit status 0")


def test_a_start_that_is_never_ready_ends_with_5(short_dir: Path) -> None:
    app = APP + "\nfrom gapless import Service\napp = Service('x', app)\n@app.check\ndef disk():\n    return False\n"
    server = failed(short_dir, app, "--start", "4")  # which the interpreter's own start must not use up
    assert server.process.returncode == 5
    server.says("disk")


def test_a_start_that_hangs_ends_with_5_and_shows_where(short_dir: Path) -> None:
    server = failed(short_dir, "import time\ntime.sleep(600)\n", "--start", "2")
    assert server.process.returncode == 5
    server.says('app.py", line 2')


def test_a_taken_port_ends_with_6_and_says_whose_it_is(short_dir: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        server = Server(short_dir, port=holder.getsockname()[1])
        assert server.wait() == 6
        server.says(f"(pid {os.getpid()})")
        server.says("→")


def test_a_second_server_does_not_take_the_admin_socket_of_a_living_one(short_dir: Path) -> None:
    with served(short_dir) as first:
        second = Server(short_dir)
        assert second.wait() == 6
        assert "a running server listens on" in second.err
        assert first.status()["pid"] == first.pid


def test_a_stale_admin_socket_is_replaced(short_dir: Path) -> None:
    with served(short_dir) as first:
        first.kill_both()
        first.wait()
        assert Path(first.admin).exists()
    with served(short_dir) as second:
        assert second.status()["pid"] == second.pid
        assert Path(second.admin).stat().st_mode & 0o777 == 0o600


def test_a_blocked_request_does_not_hold_the_others_when_there_are_two_workers(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server, server.connect() as busy:
        busy.settimeout(PATIENCE_S)
        busy.sendall(b"GET /block/1.5 HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.3)
        with server.connect() as other:
            began = time.monotonic()
            assert request(other, "/")[0] == 200
            assert time.monotonic() - began < 1.0
        assert response(busy)[0] == 200

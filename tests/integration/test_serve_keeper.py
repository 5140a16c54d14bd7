"""Keeper and master of a real server are killed, one after the other, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.integration.serve_kit import APP, Server, Steady, alive, descriptors, served, session, until

SLOW = "import time\ntime.sleep(1.5)\n" + APP


def kill_master(server: Server) -> None:
    """SIGKILL, and wait until another one answers."""
    old = server.master
    os.kill(old, signal.SIGKILL)
    until(lambda: server.master != old, "another master answers")


def kill_keeper(server: Server) -> None:
    """SIGKILL, and wait until another one is known."""
    old = server.status()["pid"]
    os.kill(old, signal.SIGKILL)
    if old == server.pid:
        server.wait()
    until(lambda: server.status()["pid"] != old, "another keeper is known")


async def under_load(server: Server, act: Callable[[Server], None], times: int) -> list[str]:
    """What a load loses meanwhile."""
    async with Steady(server.port) as load:
        for _ in range(times):
            await asyncio.to_thread(act, server)
            await asyncio.sleep(0.2)
    assert load.summary.requests > 50 * times
    return load.lost()


def unchanged(server: Server, workers: list[int]) -> None:
    assert server.workers() == workers
    assert server.get("/")[0] == 200
    assert server.reload()[0] == 200
    until(lambda: server.others() == sorted(server.workers()), "the old generation has gone, and been waited for")
    assert not set(workers) & set(server.workers())


async def test_a_killed_master_is_followed_by_another_one_and_nothing_is_lost(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        workers = server.workers()
        await asyncio.to_thread(kill_master, server)
        before = [descriptors(pid) for pid in (server.pid, server.master)]
        assert await under_load(server, kill_master, 4) == []
        assert server.status()["pid"] == server.pid
        assert server.status()["successions"] == 5
        both = (server.pid, server.master)
        until(lambda: [descriptors(pid) for pid in both] == before, "both have the descriptors they had")
        unchanged(server, workers)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert session(server.pid) == []


async def test_a_killed_keeper_is_replaced_by_the_master_and_nothing_is_lost(short_dir: Path) -> None:
    pid_file = short_dir / "pid"
    with served(short_dir, "--workers", "2", "--pid", str(pid_file)) as server:
        workers, master = server.workers(), server.master
        assert await under_load(server, kill_keeper, 4) == []
        keeper = server.status()["pid"]
        assert server.master == master
        assert pid_file.read_text() == f"{keeper}\n"
        assert set(session(server.pid)) == {keeper, master, *workers}
        unchanged(server, workers)
        os.kill(keeper, signal.SIGTERM)
        until(lambda: session(server.pid) == [], "all have ended")
        assert not pid_file.exists()
        assert not Path(server.admin).exists()


async def test_keeper_and_master_are_killed_in_turns(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        workers = server.workers()
        lost = await under_load(server, lambda server: (kill_keeper(server), kill_master(server)), 3)  # type: ignore[func-returns-value,arg-type,return-value]
        assert lost == []
        unchanged(server, workers)


def test_counters_do_not_go_back_when_the_master_is_killed(short_dir: Path) -> None:
    with served(short_dir) as server:
        for _ in range(5):
            server.get("/")
        server.counts("gapless_requests_total", 5)
        server.reload()
        kill_master(server)
        server.counts("gapless_requests_total", 5)
        server.get("/")
        server.counts("gapless_requests_total", 6)
        server.counts("gapless_server_reloads_total", 1)
        server.counts("gapless_server_successions_total", 1)


def test_a_worker_that_dies_while_there_is_no_master_is_replaced_by_the_next_one(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        victim, other = server.workers()
        os.kill(server.master, signal.SIGSTOP)
        master = int(next(pid for pid in session(server.pid) if pid not in (victim, other)))
        os.kill(victim, signal.SIGKILL)
        os.kill(master, signal.SIGKILL)
        until(lambda: len(server.workers()) == 2 and victim not in server.workers(), "it is replaced")
        assert other in server.workers()
        assert not alive(victim)
        assert server.status()["restarts"] == 1


def test_an_adopted_worker_that_dies_is_replaced_and_its_end_is_told(short_dir: Path) -> None:
    with served(short_dir) as server:
        (victim,) = server.workers()
        kill_master(server)
        os.kill(victim, signal.SIGKILL)
        until(lambda: server.workers() not in ([], [victim]), "it is replaced")
        server.says("its worker was killed by SIGKILL")


def test_a_reload_goes_on_under_the_next_master(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        server.write(SLOW.replace('VERSION = "1"', 'VERSION = "2"'))
        server.signal(signal.SIGHUP)
        until(lambda: server.status()["coming"] == 2, "the reload has begun")
        kill_master(server)
        until(lambda: server.status()["generation"] == 2, "the reload is done")
        assert server.get("/")[2].startswith(b"2 ")
        until(lambda: server.others() == sorted(server.workers()), "the old generation has gone")
        assert len(server.workers()) == 2


def test_a_stop_that_the_master_did_not_live_to_obey_is_obeyed_by_the_next_one(short_dir: Path) -> None:
    with served(short_dir) as server:
        master = server.master
        os.kill(master, signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        os.kill(master, signal.SIGKILL)
        assert server.wait() == 0
        assert session(server.pid) == []


def test_a_drain_goes_on_under_the_next_master(short_dir: Path) -> None:
    with served(short_dir) as server, server.connect() as busy:
        busy.sendall(b"GET /sleep/3 HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: server.metric("gapless_requests_in_flight") == 1, "it is under way")
        server.signal(signal.SIGTERM)
        until(lambda: server.status()["draining"], "it drains")
        kill_master(server)
        assert server.status()["draining"]
        assert busy.recv(12) == b"HTTP/1.1 200"
        assert server.wait() == 0


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_master_that_is_killed_before_it_was_ready_is_the_end(short_dir: Path) -> None:
    server = Server(short_dir, app="import time\ntime.sleep(30)\n" + APP)
    try:
        until(lambda: len(session(server.pid)) == 2, "a worker has been started")
        (master,) = [pid for pid in session(server.pid) if b"gapless.server.worker" not in command(pid)]
        os.kill(master, signal.SIGKILL)
        assert server.wait() == 137
        until(lambda: session(server.pid) == [], "the worker has gone")
    finally:
        server.end()


def test_a_keeper_that_is_killed_before_the_server_was_ready_is_the_end(short_dir: Path) -> None:
    server = Server(short_dir, app="import time\ntime.sleep(30)\n" + APP)
    try:
        until(lambda: len(session(server.pid)) == 2, "a worker has been started")
        server.process.kill()
        server.wait()
        until(lambda: session(server.pid) == [], "master and worker have gone")
        assert not Path(server.admin).exists()
    finally:
        server.end()


def test_orphans_of_the_workers_are_waited_for(short_dir: Path) -> None:
    app = APP + '\nimport subprocess\nsubprocess.Popen(["sh", "-c", "sleep 0.1 & exit 0"]).wait()\n'
    with served(short_dir, app=app) as server:
        until(lambda: zombies(server.pid) == [], "the keeper has waited for them")


def zombies(parent: int) -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] == "Z" and int(fields[1]) == parent:
            found.append(int(name))
    return found


async def test_a_master_that_hangs_is_replaced(short_dir: Path) -> None:
    with served(short_dir, "--heartbeat", "2s") as server:
        old, workers = server.master, server.workers()
        async with Steady(server.port) as load:
            os.kill(old, signal.SIGSTOP)
            await asyncio.to_thread(until, lambda: not alive(old), "it is killed")
            await asyncio.to_thread(until, lambda: server.master != old, "another one has followed")
            assert server.workers() == workers
            assert (await asyncio.to_thread(server.reload))[0] == 200
        assert load.lost() == []
        server.says(f"master {old} hangs")

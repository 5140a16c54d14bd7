"""A server that has no disk space, or no descriptors, left: it serves on, and says what it could not do."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gapless.server.listen.bind import alive as listens
from gapless.server.listen.bind import connected
from tests.integration.serve_kit import APP, Server, Steady, served, session, until
from tests.integration.test_serve_keeper import kill_keeper, kill_master
from tests.integration.test_store_full import fill

LOGS = APP + "\nimport logging\nlogging.getLogger('app').warning('loaded')\n"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 1 MiB."""
    with tempfile.TemporaryDirectory(prefix="g-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


async def test_a_server_on_a_full_disk_serves_reloads_and_is_supervised(small_disk: Path) -> None:
    """Its log, its pid file, its admin socket and its code are all there."""
    pid_file = small_disk / "pid"
    with served(small_disk, "--workers", "2", "--pid", str(pid_file), "--access-log", app=LOGS) as server:
        server.write(LOGS.replace('VERSION = "1"', 'VERSION = "2"'))
        fill(small_disk / "filler")
        async with Steady(server.port) as load:
            status, told = await asyncio.to_thread(server.reload)
            assert status == 200, told
            assert server.get("/")[2].startswith(b"2 ")
            await asyncio.to_thread(kill_master, server)
            await asyncio.to_thread(kill_keeper, server)
            assert int(pid_file.read_text()) == server.status()["pid"]
            assert (await asyncio.to_thread(server.reload))[0] == 200
        assert load.lost() == []
        os.truncate(server.folder / "filler", 0)
        assert server.reload()[0] == 200
        until(lambda: "generation 4 serves" in server.err, "it writes its log again")
        os.kill(server.status()["pid"], signal.SIGTERM)
        until(lambda: session(server.pid) == [], "all have ended")
        assert not pid_file.exists()


async def test_the_end_on_a_full_disk_is_in_order(small_disk: Path) -> None:
    with served(small_disk, "--access-log") as server:
        fill(small_disk / "filler")
        async with Steady(server.port):  # until its log is full, too
            await asyncio.sleep(0.5)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert session(server.pid) == []


def test_a_start_on_a_full_disk_serves_and_says_what_it_could_not_write(small_disk: Path) -> None:
    (small_disk / "app.py").write_text(APP)
    fill(small_disk / "filler")
    server = Server(small_disk, "--pid", str(small_disk / "pid"))
    try:
        until(lambda: listens(server.admin) and server.ask("/readyz")[0] == 200, "it is ready")
        assert (server.out, server.err) == ("", "")
        assert server.get("/")[0] == 200
        os.truncate(small_disk / "filler", 0)
        kill_master(server)
        until((small_disk / "pid").exists, "the next master writes what the first could not")
        assert int((small_disk / "pid").read_text()) == server.pid
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    finally:
        server.end()


def limit_descriptors(pid: int, spare: int) -> None:
    """It may open so many more."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = [number for number in range(4096) if number not in taken]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[spare], 4096))


def lift_limit(server: Server) -> None:
    for pid in (server.pid, *session(server.pid)):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4096, 4096))


def limit_all(server: Server, spare: int) -> None:
    status = server.status()
    for pid in (status["pid"], status["master"], *server.workers()):
        limit_descriptors(pid, spare)


async def test_a_reload_for_which_there_are_no_descriptors_is_refused_and_nothing_is_lost(short_dir: Path) -> None:
    """They are enough for the first worker, and not for the second one."""
    with served(short_dir, "--workers", "2") as server, ExitStack() as stack:
        async with Steady(server.port) as load:
            workers = server.workers()
            limit_all(server, 19)
            for _ in range(100):
                stack.enter_context(server.connect())  # more than can be accepted
            status, told = await asyncio.to_thread(server.reload)
            assert status == 422
            assert "cannot start a worker: [Errno 24] Too many open files" in told["error"]
            lift_limit(server)
            assert server.workers() == workers
            assert (await asyncio.to_thread(server.reload))[0] == 200
        assert load.lost() == []
        assert server.status()["restarts"] == 0


async def test_a_server_without_one_descriptor_left_serves_on_and_is_supervised(short_dir: Path) -> None:
    """Longer than the heartbeat, and with all that goes on besides."""
    with served(short_dir, "--workers", "2", "--heartbeat", "2s") as server, ExitStack() as stack:
        workers, keeper = server.workers(), server.pid
        async with Steady(server.port) as load:
            limit_all(server, 0)
            for _ in range(50):
                stack.enter_context(server.connect())
            for _ in range(5):
                stack.enter_context(connected(server.admin))
            server.signal(signal.SIGHUP)
            await asyncio.sleep(3.5)
            lift_limit(server)
            assert "Traceback" not in server.err
            assert server.err.count("cannot accept for want of resources") < 100  # five a second and process at most
            assert server.workers() == workers
            assert server.pid == keeper
            await asyncio.to_thread(kill_master, server)
            assert server.workers() == workers
            assert (await asyncio.to_thread(server.reload))[0] == 200
        assert load.lost() == []
        assert server.status()["restarts"] == 0
        server.says("cannot keep the state for a master that might follow")


async def test_keeper_and_master_without_descriptors_start_one_another_when_there_are_some(short_dir: Path) -> None:
    with served(short_dir) as server:
        async with Steady(server.port) as load:
            for act, who in ((kill_master, "pid"), (kill_keeper, "master")):
                survivor = server.status()[who]
                limit_descriptors(survivor, 0)
                lifting = asyncio.get_running_loop().call_later(
                    1.0, resource.prlimit, survivor, resource.RLIMIT_NOFILE, (4096, 4096)
                )
                await asyncio.to_thread(act, server)
                assert lifting.when() <= asyncio.get_running_loop().time()
            assert (await asyncio.to_thread(server.reload))[0] == 200
        assert load.lost() == []
        assert server.status()["restarts"] == 0

"""The first worker is started ahead of its master."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from gapless.server.early import AHEAD
from tests.integration.serve_kit import APP, PATIENCE_S, served, session, until


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_the_first_worker_was_there_before_its_master(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        first, second = sorted(server.workers(), key=parent)
        assert (parent(first), parent(second)) == (server.pid, server.master)
        server.reload()
        assert {parent(pid) for pid in server.workers()} == {server.master}


def test_what_it_says_is_read_along_like_everybody_s(short_dir: Path) -> None:
    with served(short_dir, app="print('loading', flush=True)\n" + APP) as server:
        assert "loading" in server.out
        os.kill(server.workers()[0], signal.SIGKILL)
        until(lambda: server.status()["restarts"] == 1, "it is replaced")
        server.says("its worker was killed by SIGKILL")


def test_a_wrong_command_leaves_nobody_behind(short_dir: Path) -> None:
    command = [sys.executable, "-m", "gapless", "serve", "app:app", "--workers", "many"]
    with subprocess.Popen(command, cwd=short_dir, stderr=subprocess.PIPE, start_new_session=True) as server:
        _, err = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 2
    assert b"'--workers'" in err
    assert session(server.pid, zombies=True) == []


def test_descriptors_that_are_meant_for_the_server_stay_there(short_dir: Path) -> None:
    (short_dir / "app.py").write_text(APP)
    command = [sys.executable, "-m", "gapless", "serve", "app:app", "--bind", "unix:s", "--admin", "unix:a"]
    outlet, inlet = os.pipe()
    with subprocess.Popen(
        command,
        cwd=short_dir,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[outlet],
        start_new_session=True,
    ) as server:
        assert server.stdout
        server.stdout.readline()
        (worker,) = [pid for pid in session(server.pid) if parent(pid) == server.pid and AHEAD in command_of(pid)]
        pipe = os.readlink(f"/proc/self/fd/{outlet}")
        open_there = [os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd")]
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
    for fd in (outlet, inlet):
        os.close(fd)
    assert pipe not in open_there

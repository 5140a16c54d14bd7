"""Keeper, master and workers are killed at every step of a hand-over, under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.integration.serve_kit import Server, Steady, response, session, until
from tests.integration.steps_kit import go_on, settled, state, stepped, stop_at

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OF_THE_MASTER = (
    "before-hold-worker", "after-hold-worker", "got-HELLO", "before-FDS", "after-FDS", "got-ACK", "got-PREPARED",
    "before-COMMIT", "after-COMMIT", "got-SERVING", "before-RETIRE", "after-RETIRE", "got-STOPPED", "got-FINAL",
    "before-BYE", "after-BYE",
)  # fmt: skip
OF_THE_WORKER = (
    "before-HELLO", "after-HELLO", "got-FDS", "after-ACK", "before-PREPARED", "after-PREPARED", "got-COMMIT",
    "before-SERVING", "after-SERVING", "got-RETIRE", "before-STOPPED", "after-STOPPED", "before-FINAL", "after-FINAL",
)  # fmt: skip
HOLDING = ("before-SERVING", "after-SERVING", "got-RETIRE", "before-STOPPED", "after-STOPPED")
"""Where a worker has connections of its own, which nobody can save when it is killed."""
CONNECTIONS = 8


def kill_at(server: Server, step: str, victim: str, workers: int) -> float:
    """Reload, and SIGKILL the victim when a process has stopped at the step; the seconds until there is a master that
    answers, and a keeper that it knows."""
    status = server.status()
    pid = stop_at(server, step, lambda: os.kill(status["pid"], signal.SIGHUP))
    doomed = {"master": status["master"], "keeper": status["pid"], "the stopped one": pid}[victim]
    os.kill(doomed, signal.SIGKILL)
    if doomed == server.pid:
        server.wait()
    began = time.monotonic()
    go_on(pid)
    until(lambda: doomed not in (server.status()["pid"], server.status()["master"]), f"{step}: it is supervised again")
    took_s = time.monotonic() - began
    until(lambda: settled(server, workers), f"{step}: it has settled")
    return took_s


async def killed_at(server: Server, steps: tuple[str, ...], victim: str, workers: int) -> list[str]:
    """What a load loses meanwhile."""
    async with Steady(server.port, rate=80.0, connections=CONNECTIONS) as load:
        for step in steps:
            took_s = await asyncio.to_thread(kill_at, server, step, victim, workers)
            assert took_s < 15.0, step  # one second is what is promised on a machine that is not overloaded
    assert load.summary.answered > 20 * len(steps)
    return load.lost()


async def test_the_master_is_killed_at_every_step_of_its_own(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stepped(short_dir, monkeypatch, "--workers", "2") as server:
        assert await killed_at(server, OF_THE_MASTER, "master", 2) == []
        assert server.status()["successions"] == len(OF_THE_MASTER)
        assert server.status()["restarts"] == 0


async def test_the_keeper_is_killed_at_every_step_of_the_master(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stepped(short_dir, monkeypatch) as server:
        assert await killed_at(server, OF_THE_MASTER, "keeper", 1) == []
        assert server.status()["successions"] == 0


@pytest.mark.parametrize("victim", ["master", "keeper"])
async def test_master_and_keeper_are_killed_at_every_step_of_a_worker(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    with stepped(short_dir, monkeypatch) as server:
        assert await killed_at(server, OF_THE_WORKER, victim, 1) == []


async def test_a_worker_is_killed_at_every_step_of_its_own(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stepped(short_dir, monkeypatch, "--workers", "2") as server:
        free = tuple(step for step in OF_THE_WORKER if step not in HOLDING)
        assert await killed_at(server, free, "the stopped one", 2) == []
        lost = await killed_at(server, HOLDING, "the stopped one", 2)
        assert len(lost) <= len(HOLDING) * CONNECTIONS
        assert {line.partition(":")[0] for line in lost} <= {"reset", "truncated"}


def kill_heir(server: Server, step: str, victim: str) -> None:
    """SIGKILL the master, and when the next one has stopped at the step, that one or the keeper."""
    status = server.status()
    pid = stop_at(server, step, lambda: os.kill(status["master"], signal.SIGKILL))
    doomed = {"heir": pid, "keeper": status["pid"]}[victim]
    os.kill(doomed, signal.SIGKILL)
    if doomed == server.pid:
        server.wait()
    go_on(pid)
    until(lambda: doomed not in (server.status()["pid"], server.status()["master"]), f"{step}: it is supervised again")
    until(lambda: settled(server, 2), f"{step}: it has settled")


async def test_a_master_that_adopts_is_killed_at_every_step_and_so_is_its_keeper(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stepped(short_dir, monkeypatch, "--workers", "2") as server:
        workers = server.workers()
        async with Steady(server.port, rate=80.0, connections=CONNECTIONS) as load:
            for step in ("before-WHO", "after-WHO", "got-HERE"):
                for victim in ("heir", "keeper"):
                    await asyncio.to_thread(kill_heir, server, step, victim)
        assert load.lost() == []
        assert server.workers() == workers
        assert server.status()["restarts"] == 0


@pytest.mark.parametrize("step", ["before-DRAIN", "after-DRAIN", "got-STOPPED", "got-FINAL", "before-BYE"])
def test_a_master_that_is_killed_while_the_server_drains(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with stepped(short_dir, monkeypatch) as server, server.connect() as busy:
        busy.sendall(b"GET /sleep/1 HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: server.metric("gapless_requests_in_flight") == 1, "it is under way")
        pid = stop_at(server, step, partial(server.signal, signal.SIGTERM))
        os.kill(pid, signal.SIGKILL)
        assert response(busy)[0] == 200
        assert server.wait() == 0
        assert session(server.pid, zombies=True) == []
        assert not Path(server.admin).exists()
        assert state(pid) == ""

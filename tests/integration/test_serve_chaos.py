"""A random process of a server is killed at a random moment, again and again, under load and with reloads mixed in.

GAPLESS_CHAOS_S says for how many seconds (20 when it does not), GAPLESS_CHAOS_SEED which dice are thrown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.integration.serve_kit import Server, Steady, descriptors, served, session, until
from tests.integration.steps_kit import settled

FOR_S = float(os.environ.get("GAPLESS_CHAOS_S", "20"))
SEED = int(os.environ.get("GAPLESS_CHAOS_SEED", "20261121"))
WORKERS = 3
CONNECTIONS = 12
PAUSE_S = (0.05, 1.5)
SLACK_S = 0.5
"""Between the clocks of killer and load, on a busy machine."""

pytestmark = [pytest.mark.promise, pytest.mark.slow, pytest.mark.timeout(FOR_S + 300)]


class Chaos:
    """Throws the dice, kills, and keeps the account."""

    def __init__(self, server: Server, dice: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.worker_kills: list[float] = []
        """When workers were killed, in seconds since the epoch."""
        self._server = server
        self._dice = dice
        self._counted = 0.0

    def run(self, for_s: float) -> None:
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            self._act()
            time.sleep(self._dice.uniform(*PAUSE_S))

    def _act(self) -> None:
        what = self._dice.choice(["keeper", "master", "worker", "reload", "reload", "scrape"])
        status = self._server.status()
        self.done[what] += 1
        if what == "reload":
            os.kill(status["pid"], signal.SIGHUP)
        elif what == "scrape":
            self._scrape()
        elif what == "worker":
            self._kill_worker(status)
        else:
            self._kill(status["pid" if what == "keeper" else "master"])

    def _kill_worker(self, status: dict[str, Any]) -> None:
        """Any of them: one that starts, serves, or leaves."""
        self.worker_kills.append(time.time())
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._dice.choice(status["workers"])["pid"], signal.SIGKILL)

    def _kill(self, pid: int) -> None:
        """Keeper or master; the other one needs a moment to replace it."""
        os.kill(pid, signal.SIGKILL)
        if pid == self._server.pid:
            self._server.wait()
        until(lambda: pid not in self._both(), "it is supervised again")

    def _both(self) -> tuple[int, int]:
        status = self._server.status()
        return status["pid"], status["master"]

    def _scrape(self) -> None:
        now = self._server.metric("gapless_requests_total")
        assert now >= self._counted, "a counter went backwards"
        self._counted = now


async def test_whatever_is_killed_the_server_serves_on(short_dir: Path) -> None:
    with served(short_dir, "--workers", str(WORKERS)) as server:
        chaos = Chaos(server, random.Random(SEED))
        async with Steady(server.port, "/sleep/0.01", rate=100.0, connections=CONNECTIONS) as load:
            await asyncio.to_thread(chaos.run, FOR_S)
        account = f"seed {SEED}: {dict(chaos.done)}, {load.summary.requests} requests, lost {len(load.lost())}"
        logging.getLogger(__name__).info(account)  # shown with --log-cli-level=info
        await asyncio.to_thread(until, lambda: settled(server, WORKERS), "it has settled")
        assert server.get("/")[0] == 200
        nobody_else_is_blamed(load, chaos.worker_kills)
        await asyncio.to_thread(nothing_is_left, server)


def nobody_else_is_blamed(load: Steady, kills: list[float]) -> None:
    """Each request that was lost was under way when a worker was killed; no more than its connections could hold."""
    lost = [record for record in load.records if record.cause]
    for record in lost:
        began, ended = record.due_at - SLACK_S, record.due_at + record.latency_s + SLACK_S
        assert any(began <= kill <= ended for kill in kills), record
        assert record.cause in ("reset", "truncated", "keep-alive race"), record
    assert len(lost) <= len(kills) * CONNECTIONS


def nothing_is_left(server: Server) -> None:
    """Descriptors do not grow with what happened: one more of everything changes nothing."""
    counts = []
    for _ in range(2):
        old = server.master
        os.kill(old, signal.SIGKILL)
        until(lambda old=old: server.master != old, "another master answers")  # type: ignore[misc]
        server.reload()
        server.metric("gapless_requests_total")
        until(lambda: settled(server, WORKERS), "it has settled")
        status = server.status()
        counts.append([len(descriptors(pid)) for pid in (status["pid"], status["master"])])
    assert counts[0] == counts[1]
    assert max(counts[0]) < 30 + 12 * WORKERS
    os.kill(server.status()["pid"], signal.SIGTERM)
    until(lambda: session(server.pid, zombies=True) == [], "all have ended")

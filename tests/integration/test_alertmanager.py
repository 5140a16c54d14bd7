"""Debian's Alertmanager hears of what fires, and of its end; one that is a black hole delays nobody."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gapless.control.alertmanager import Alertmanagers
from gapless.control.records import Records
from gapless.core.model.alert import Alert, AlertState, Severity
from gapless.core.world import RealWorld
from gapless.store.memory import MemoryStore
from tests.ports import free_port

LIMIT_S = 60.0
CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


@contextmanager
def alertmanager(directory: Path) -> Iterator[str]:
    """The real one, by itself; its URL."""
    program = shutil.which("prometheus-alertmanager")
    assert program, "apt-get install -y --no-install-recommends prometheus-alertmanager"
    port = free_port("127.0.0.1")
    (directory / "am.yml").write_text(CONFIG)
    argv = [program, f"--config.file={directory / 'am.yml'}", f"--storage.path={directory / 'data'}"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    with (directory / "am.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + LIMIT_S
        while not answers(f"{url}/-/ready"):
            assert process.poll() is None, (directory / "am.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.loads(response.read())


async def until(manager: Alertmanagers, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        await manager.step()
        await asyncio.sleep(0.05)


async def test_it_hears_what_fires_and_what_is_over_beside_one_that_swallows_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = RealWorld()
    records = Records(MemoryStore(world), lambda: None)
    await records.load()
    alert = Alert(
        number=7,
        key="errors/web",
        rule="errors",
        service="web",
        severity=Severity.P1,
        summary="web: 2 % errors",
        labels={"team": "a", "a-b": "c"},
        state=AlertState.FIRING,
        fired_at=world.time(),
    )
    await records.write(alert)
    with alertmanager(tmp_path) as url, socket.create_server(("127.0.0.1", 0)) as hole:
        manager = Alertmanagers((f"http://127.0.0.1:{hole.getsockname()[1]}", url), "shop", records, world)

        def active() -> Any:
            return fetched(f"{url}/api/v2/alerts?active=true")

        await until(manager, lambda: len(active()) == 1)
        (heard,) = active()
        assert heard["labels"] == {
            "alertname": "errors",
            "system": "shop",
            "service": "web",
            "severity": "P1",
            "team": "a",
            "a_b": "c",
        }
        assert heard["annotations"]["summary"] == "web: 2 % errors"
        await records.write(replace(alert, state=AlertState.RESOLVED, resolved_at=world.time()))
        await until(manager, lambda: not active())
        await manager.jobs.cancel()
    assert not [record for record in caplog.records if "422" in record.message or "400" in record.message]

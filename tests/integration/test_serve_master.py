"""The master on the test's own loop, with real workers: what would take too long, or too much, from outside."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gapless.core.errors import AppError
from gapless.core.world import RealWorld
from gapless.server.connections.queue import open_queue
from gapless.server.handover import handover
from gapless.server.listen.bind import listeners
from gapless.server.master.keep import Alone
from gapless.server.master.master import Master
from gapless.server.master.outcome import Refusal
from gapless.server.settings import Settings
from tests.integration.serve_kit import APP, PATIENCE_S, exchange


@asynccontextmanager
async def mastered(folder: Path, monkeypatch: pytest.MonkeyPatch, silent_s: float = 30.0) -> AsyncIterator[Master]:
    """A master whose first generation serves."""
    (folder / "app.py").write_text(APP)
    monkeypatch.chdir(folder)
    ready = asyncio.Event()
    master = Master(
        Settings("app:app", drain_s=5.0, start_s=20.0),
        listeners(["127.0.0.1:0"]),
        open_queue(),
        RealWorld(),
        ready.set,
        Alone(),
    )
    master.state = master.state._replace(limits=master.state.limits._replace(silent_s=silent_s))
    running = asyncio.ensure_future(master.run())
    try:
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        yield master
    finally:
        master.stop(15)
        assert await asyncio.wait_for(running, PATIENCE_S) == 0


async def until(true: Callable[[], bool], limit_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(limit_s):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_worker_whose_loop_is_blocked_is_killed_and_replaced(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mastered(short_dir, monkeypatch, silent_s=2.0) as master:
        (victim,) = master.serving
        _, writer = await asyncio.open_connection(*master._listeners[0].sock.getsockname())
        writer.write(b"GET /block/600 HTTP/1.1\r\nhost: x\r\n\r\n")
        began = time.monotonic()
        await until(lambda: bool(master.serving) and master.serving != [victim])
        assert time.monotonic() - began > 0.5
        assert master.archive.restarts == 1
        writer.close()


async def test_a_worker_that_speaks_another_version_is_refused(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short_dir / "app.py").write_text(APP)
    monkeypatch.chdir(short_dir)
    monkeypatch.setattr(handover, "VERSION", 2)
    master = Master(Settings("app:app"), listeners(["127.0.0.1:0"]), open_queue(), RealWorld(), lambda: None, Alone())
    with pytest.raises(AppError, match="speaks version 1 of the hand-over protocol, this one 2"):
        await asyncio.wait_for(master.run(), PATIENCE_S)


async def test_a_worker_that_lies_about_what_it_received_is_refused(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mastered(short_dir, monkeypatch) as master:
        (old,) = master.serving
        monkeypatch.setattr(
            "gapless.server.master.child.Child._names", lambda child: ["listen:elsewhere", "stdout", "stderr"]
        )
        with pytest.raises(Refusal):
            await asyncio.wait_for(master.reload(), PATIENCE_S)
        assert master.serving == [old]


async def test_a_reload_for_which_there_are_no_processes_left_is_refused(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mastered(short_dir, monkeypatch) as master:
        (old,) = master.serving

        def refuse(*_: object, **__: object) -> None:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr("subprocess.Popen", refuse)
        with pytest.raises(Refusal, match="cannot start a worker"):
            await master.reload()
        assert master.serving == [old]


async def test_the_same_descriptors_after_many_reloads(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mastered(short_dir, monkeypatch) as master:
        await master.reload()
        await until(lambda: len(master.children) == 1)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await master.reload()
            await until(lambda: len(master.children) == 1)
        assert len(os.listdir("/proc/self/fd")) == before
        sock = master._listeners[0].sock.getsockname()
        assert master.serving[0].pid > 0
        status, _, _ = await asyncio.to_thread(ask_once, sock)
        assert status == 200


def ask_once(address: tuple[str, int]) -> tuple[int, dict[str, str], bytes]:
    import socket

    return exchange(socket.create_connection(address), b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

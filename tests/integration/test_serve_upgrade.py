"""Gapless itself is replaced on disk, under a server that runs: two copies of it that say different versions."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import gapless
from tests.integration.serve_kit import Server, Steady, served, session, until
from tests.integration.steps_kit import use_copy

SOURCE = Path(gapless.__file__).parent


def copy(place: Path, version: str, **replaced: tuple[str, str, str]) -> None:
    """A copy of the product with another version, and one line of `module` replaced for each (module, old, new)."""
    shutil.copytree(SOURCE, place / "gapless", ignore=shutil.ignore_patterns("__pycache__"))
    named = ("__init__", f'__version__ = "{gapless.__version__}"', f'__version__ = "{version}"')
    for module, old, new in (named, *replaced.values()):
        file = place / "gapless" / f"{module}.py"
        text = file.read_text()
        assert text.count(old) == 1
        file.write_text(text.replace(old, new))


def install(folder: Path, version: str) -> None:
    """As an installer does: at once, for whoever is started from now on."""
    (folder / "new").symlink_to(version)
    (folder / "new").rename(folder / "current")


@contextmanager
def upgraded(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Iterator[Server]:
    """A server of version 1, that finds version 2 when it reloads."""
    copy(folder / "1", "1")
    install(folder, "1")
    use_copy(folder / "current", monkeypatch)
    with served(folder, "--workers", "2", *options) as server:
        install(folder, "2")
        yield server


async def test_a_reload_brings_the_master_of_the_new_version(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(short_dir / "2", "2")
    with upgraded(short_dir, monkeypatch) as server:
        old = server.master
        async with Steady(server.port) as load:
            status, _ = await asyncio.to_thread(server.reload)
            assert status == 200
            await asyncio.to_thread(until, lambda: server.master != old, "another master has taken over")
            assert server.status()["version"] == "2"
            assert (await asyncio.to_thread(server.reload))[0] == 200
        assert load.lost() == []
        assert server.status()["successions"] == 1
        assert server.status()["pid"] == server.pid
        server.counts("gapless_requests_total", load.summary.answered)
        until(lambda: server.others() == sorted(server.workers()), "the old generations have gone")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert session(server.pid) == []


def test_a_successor_that_cannot_start_is_not_left_for(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(short_dir / "2", "2", broken=("server/heir", "import json\n", "import json\nimport nosuchmodule\n"))
    with upgraded(short_dir, monkeypatch) as server:
        old = server.master
        assert server.reload()[0] == 200
        until(lambda: "whose master does not start" in server.err, "it was tried")
        server.says("nosuchmodule")
        assert server.master == old
        assert server.get("/")[0] == 200


def are_others(server: Server, before: list[int]) -> bool:
    workers = server.workers()
    return len(workers) == len(before) and not set(before) & set(workers)


SPOKEN = ("server/handover/handover", "SPOKEN = (1, 1)", "SPOKEN = (2, 2)")


async def test_workers_that_cannot_be_spoken_to_are_refused(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(short_dir / "2", "2", spoken=SPOKEN)
    with upgraded(short_dir, monkeypatch) as server:
        before = server.workers()
        async with Steady(server.port) as load:
            status, told = await asyncio.to_thread(server.reload)
        assert load.lost() == []
        assert status == 422
        assert "speaks versions 2 to 2 of the hand-over messages, this one 1 to 1" in told["error"]
        assert server.workers() == before
        assert server.get("/")[0] == 200


async def test_adopted_workers_that_cannot_be_spoken_to_are_replaced(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    copy(short_dir / "2", "2", spoken=SPOKEN)
    with upgraded(short_dir, monkeypatch, "--start", "10s") as server:  # and how long the old ones wait
        before = server.workers()
        async with Steady(server.port) as load:
            os.kill(server.master, signal.SIGKILL)
            await asyncio.to_thread(until, lambda: are_others(server, before), "they are replaced")
        assert load.lost() == []
        until(lambda: server.others() == sorted(server.workers()), "the old ones have gone")

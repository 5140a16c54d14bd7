"""The server's small parts: settings, archive, tee, admin answers."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from gapless.core import lifecycle
from gapless.core.errors import ConfigError
from gapless.server import settings
from gapless.server.admin.admin import Answer, as_json, response
from gapless.server.connections import queue as connection_queue
from gapless.server.connections.queue import open_queue
from gapless.server.master.archive import Archive
from gapless.server.master.child import Child, describe
from gapless.server.master.keep import Alone
from gapless.server.master.tee import LINES, Tee
from gapless.server.settings import Settings, seconds, task_from, task_of
from gapless.server.worker.worker import failure


@pytest.mark.parametrize(("text", "value"), [("30s", 30), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("7.5", 7.5)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text, "--drain") == value


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0", "nan", "inf", "s"])
def test_what_is_no_duration_names_its_option(text: str) -> None:
    with pytest.raises(ConfigError, match="--drain"):
        seconds(text, "--drain")


def test_a_worker_gets_its_part_of_the_settings() -> None:
    task = task_of(Settings("shop:app", workers=3, access_log=True), 7)
    assert (task.app, task.workers, task.access_log, task.generation) == ("shop:app", 3, True, 7)
    assert task_from({**task._asdict(), "later": 1}) == task


def counter(value: float, kind: str = "counter") -> list[dict[str, Any]]:
    return [{"name": "n", "kind": kind, "help": "", "labels": [], "values": [[[], value]]}]


def value_of(samples: list[dict[str, Any]], name: str) -> float:
    return sum(value for sample in samples if sample["name"] == name for _, value in sample["values"])


def test_counters_of_ended_workers_stay_and_their_gauges_go() -> None:
    archive = Archive()
    archive.add(1, counter(3))
    archive.add(2, counter(4))
    archive.add(2, counter(4))
    archive.add(3, counter(100, "gauge"))
    assert value_of(archive.total({2: counter(4), 4: counter(1), 5: counter(2)}), "n") == 10


def test_the_masters_own_counts_are_shown_from_the_start() -> None:
    archive = Archive()
    assert {sample["name"] for sample in archive.total({})} == {
        "gapless_server_reloads",
        "gapless_server_restarts",
        "gapless_server_recycled",
        "gapless_server_state",
        "gapless_server_successions",
    }
    archive.reloads["refused"] += 2
    archive.restarts += 1
    assert value_of(archive.total({}), "gapless_server_reloads") == 2
    assert value_of(archive.total({}), "gapless_server_restarts") == 1


async def test_a_tee_passes_everything_on_and_keeps_the_last_lines() -> None:
    outlet, inlet = os.pipe()
    tee = Tee(inlet)
    text = "".join(f"line {n}\n" for n in range(LINES + 5)) + 'File "<frozen importlib>", line 1\nunfinished'
    os.write(tee.inlet, text.encode())
    tee.close_inlet()
    tee.close()
    tee.close()
    os.close(inlet)
    assert os.read(outlet, 65_536).decode() == text
    os.close(outlet)
    assert tee.lines()[-2:] == [f"line {LINES + 4}", "unfinished"]
    assert len(tee.lines()) <= LINES + 1
    assert not any("frozen" in line for line in tee.lines())


async def test_a_tee_survives_an_output_that_is_closed() -> None:
    outlet, inlet = os.pipe()
    os.close(outlet)
    tee = Tee(inlet)
    os.write(tee.inlet, b"hello\n")
    tee.close_inlet()
    await asyncio.sleep(0)
    tee.close()
    os.close(inlet)
    assert tee.lines() == ["hello"]


def test_answers_of_the_admin_socket() -> None:
    data = response(as_json(405, {"error": "no"})._replace(allow="POST"), head_only=False)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"allow: POST" in head
    assert body == b'{"error": "no"}\n'
    assert response(Answer(200, b"x"), head_only=True).endswith(b"\r\n\r\n")


def test_how_a_worker_ended() -> None:
    assert describe(3) == "its worker ended with exit status 3"
    assert describe(-9) == "its worker was killed by SIGKILL"
    assert describe(-63) == "its worker was killed by signal 63"


def test_a_failure_keeps_the_code_and_the_lines() -> None:
    told = failure(ConfigError("first\nsecond", "do this"))
    assert (told.reason, told.code, told.log) == ("first", 2, ["second", "  → do this"])
    assert failure(ExceptionGroup("both", [ValueError("x")])).code == 4


@pytest.mark.parametrize("what", ["pidfd_open", "pipe2"])
async def test_a_worker_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    before = sorted(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, what, refuse)
    queue = open_queue()
    child = Child(1, task_of(Settings("no:app"), 1), [], queue, lambda *_: None, lambda _: None, Alone())
    with pytest.raises(OSError, match="Too many"):
        child.start()
    connection_queue.close(queue)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_in_kubernetes_a_drain_is_announced_for_longer() -> None:
    assert settings.announce("", {}) == settings.ANNOUNCE_S == lifecycle.ANNOUNCE_S
    assert settings.announce("", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == settings.ANNOUNCE_CLUSTER_S
    assert settings.announce("2s", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == 2

"""Bake time of a real server: new code that fails after it serves is sent back, and nothing is lost that it did not
hold itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.integration.serve_kit import APP, Server, Steady, alive, request, response, served, session, until

SECOND = APP.replace('VERSION = "1"', 'VERSION = "2"')
UNREADY_LATER = SECOND + (
    "\nfrom gapless import Service\nservice = Service('orders', app)\nborn = time.monotonic()\n"
    "@service.check(every_s=0.2)\ndef disk():\n    return time.monotonic() - born < 1.5\napp = service\n"
)


class Reload(threading.Thread):
    """One in the background; `told` is there when it has ended."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self.told: tuple[int, dict[str, Any]] = (0, {})
        self.start()

    def run(self) -> None:
        self.told = self._server.reload()


def baking(server: Server) -> bool:
    """The new generation serves, and the old one has heard that it is to pause."""
    found = sorted((worker["phase"], worker["accepting"]) for worker in server.status()["workers"])
    return found == [("paused", False), ("serving", True)]


def test_good_code_bakes_and_the_old_generation_leaves_then(short_dir: Path) -> None:
    with served(short_dir, "--bake", "1s") as server:
        (old,) = server.workers()
        server.write(SECOND)
        reload = Reload(server)
        until(lambda: baking(server), "it bakes")
        assert server.get("/")[2].startswith(b"2 ")
        assert alive(old)
        status, told = server.reload()
        assert (status, told["error"]) == (409, "generation 2 is in its bake time")
        reload.join()
        status, told = reload.told
        assert status == 200
        names = [stage["name"] for stage in told["stages"]]
        assert names == ["prepared", "committed", "serving", "stopped", "baked"]
        assert told["stages"][-1]["took_s"] >= 1.0
        until(lambda: server.others() == server.workers() != [old], "the old one has gone")


async def test_code_that_crashes_in_its_bake_time_is_sent_back(short_dir: Path) -> None:
    with served(short_dir, "--bake", "20s") as server:
        (old,) = server.workers()
        server.write(SECOND)
        async with Steady(server.port) as load:
            reload = Reload(server)
            await asyncio.to_thread(until, lambda: baking(server), "it bakes")
            (new,) = server.workers()
            assert server.get("/")[2].startswith(b"2 ")
            os.kill(new, signal.SIGKILL)
            await asyncio.to_thread(reload.join)
            status, told = reload.told
            assert (status, told["error"]) == (422, "refused: its worker was killed by SIGKILL")
            assert server.workers() == [old]
            assert server.get("/")[2].startswith(b"1 ")
        assert len(load.lost()) <= 16  # what the killed one held
        assert server.status()["generation"] == 1
        server.counts("gapless_server_reloads_total", 1)


async def test_code_that_becomes_unready_in_its_bake_time_is_sent_back_without_a_lost_request(short_dir: Path) -> None:
    with served(short_dir, "--bake", "20s", "--workers", "2") as server:
        old = server.workers()
        server.write(UNREADY_LATER)
        async with Steady(server.port) as load:
            status, told = await asyncio.to_thread(server.reload)
            assert status == 422
            assert told["error"].startswith("refused: it became unready: disk")
            assert sorted(server.workers()) == sorted(old)
            assert server.get("/")[2].startswith(b"1 ")
        assert load.lost() == []
        until(lambda: server.others() == sorted(old), "the failed one has gone")
        server.write(SECOND)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.get("/")[2].startswith(b"2 "), "a good one takes over")


def test_a_kept_connection_goes_to_the_new_generation_and_comes_back_with_the_old_one(short_dir: Path) -> None:
    with served(short_dir, "--bake", "20s") as server, server.connect() as kept, server.connect() as busy:
        assert request(kept, "/")[2].startswith(b"1 ")
        busy.sendall(b"GET /sleep/1 HTTP/1.1\r\nhost: x\r\n\r\n")
        server.write(UNREADY_LATER)
        reload = Reload(server)
        until(lambda: baking(server), "it bakes")
        assert request(kept, "/")[2].startswith(b"2 ")
        assert response(busy)[2].startswith(b"1 ")
        reload.join()
        assert reload.told[0] == 422
        until(lambda: request(kept, "/")[2].startswith(b"1 "), "it is back")
        until(lambda: request(busy, "/")[2].startswith(b"1 "), "it is back as well")
        until(lambda: len(server.others()) == 1, "the failed one has gone")
        assert request(kept, "/")[0] == 200


def test_the_report_of_a_failed_bake_shows_what_was_written_last(short_dir: Path) -> None:
    told = 'import sys; print("out of ink", file=sys.stderr, flush=True)\n        os._exit(3)'
    with served(short_dir, "--bake", "20s") as server:
        server.write(SECOND.replace("os._exit(3)", told))
        reload = Reload(server)
        until(lambda: baking(server), "it bakes")
        with server.connect() as sock:
            sock.sendall(b"GET /exit HTTP/1.1\r\nhost: x\r\n\r\n")
            sock.recv(1)
        reload.join()
        assert reload.told[0] == 422
        assert reload.told[1]["log"][-1] == "out of ink"
        server.says("out of ink")


def test_the_reload_verb_outlives_the_master(short_dir: Path) -> None:
    with served(short_dir) as server:
        server.write("import time\ntime.sleep(2)\n" + SECOND)
        command = [sys.executable, "-m", "gapless", "reload", "--admin", server.admin]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as verb:
            until(lambda: server.status()["coming"] == 2, "the reload has begun")
            os.kill(server.master, signal.SIGKILL)
            out, err = verb.communicate(timeout=60)
        assert verb.returncode == 0, err
        assert "Generation 2 serves; workers" in out
        assert server.get("/")[2].startswith(b"2 ")


def test_a_stop_in_the_bake_time_ends_both_generations(short_dir: Path) -> None:
    with served(short_dir, "--bake", "20s") as server:
        reload = Reload(server)
        until(lambda: baking(server), "it bakes")
        server.signal(signal.SIGTERM)
        reload.join()
        assert reload.told[0] == 200
        assert server.wait() == 0
        assert session(server.pid) == []


def test_the_reload_verb_shows_each_stage(short_dir: Path) -> None:
    with served(short_dir, "--bake", "500ms") as server:
        command = [sys.executable, "-m", "gapless", "reload", "--admin", server.admin]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        *stages, last = done.stdout.splitlines()
        assert [line.split()[0] for line in stages] == [
            "starting",
            "prepared",
            "committed",
            "serving",
            "stopped",
            "baked",
        ]
        assert last.startswith("Generation 2 serves after ")
        as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(as_json.stdout)["generation"] == 3

"""Reloads of a real server under load: nothing is lost, and what is refused changes nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.serve_kit import APP, Server, Steady, served, until

pytestmark = pytest.mark.promise

HANG = "import time\nprint('loading the catalogue', flush=True)\ntime.sleep(600)\n" + APP
NEVER_READY = APP + (
    "\nfrom gapless import Service\nservice = Service('orders', app)\n"
    "@service.check\ndef database():\n    return False\napp = service\n"
)


def test_a_reload_brings_the_new_code_and_says_how_long_each_stage_took(short_dir: Path) -> None:
    with served(short_dir) as server:
        first = server.workers()
        assert server.get("/")[2].startswith(b"1 ")
        server.write(APP.replace('VERSION = "1"', 'VERSION = "2"'))
        status, told = server.reload()
        assert (status, told["generation"], told["before"]) == (200, 2, 1)
        assert [stage["name"] for stage in told["stages"]] == ["prepared", "committed", "serving", "stopped"]
        assert told["workers"] == server.workers() != first
        assert server.get("/")[2].startswith(b"2 ")
        assert server.pid == server.status()["pid"]


def test_frequent_reloads_do_not_pile_up_workers_that_wait_for_idle_clients(short_dir: Path) -> None:
    with served(short_dir) as server, ExitStack() as stack:
        for _ in range(5):
            half = stack.enter_context(server.connect())
            half.sendall(b"GET / HTTP/1.1\r\nho")  # cannot be handed over
            until(lambda: sum(worker["connections"] for worker in server.status()["workers"]) > 0, "it is accepted")
            server.reload()
        # All but the generation that was retired last are in a hurry: they end long before the idle time of 10 s.
        until(lambda: len(server.others()) <= 2, "the older ones have gone", limit_s=8)


def refused(server: Server, app: str) -> dict[str, object]:
    """Reload to a bad app; the old one must go on as if nothing had been."""
    before = server.workers()
    server.write(app)
    status, told = server.reload()
    assert status == 422, told
    assert server.workers() == before
    assert server.get("/")[2].startswith(b"1 ")
    until(lambda: server.others() == sorted(before), "the refused generation has been reaped")
    return told


def test_code_that_cannot_be_imported_is_refused_with_its_traceback(short_dir: Path) -> None:
    with served(short_dir) as server:
        told = refused(server, "import no_such_thing\n")
        assert "could not be imported" in str(told["error"])
        assert "ModuleNotFoundError: No module named 'no_such_thing'" in told["log"][-1]  # type: ignore[index]
        server.counts("gapless_server_reloads_total", 1)


def test_code_that_ends_its_process_is_refused_with_its_last_lines(short_dir: Path) -> None:
    with served(short_dir) as server:
        told = refused(server, "import os, sys\nprint('no licence', file=sys.stderr, flush=True)\nos._exit(3)\n")
        assert told["error"] == "refused: its worker ended with exit status 3"
        assert told["log"] == ["no licence"]


def test_code_that_hangs_is_refused_at_the_start_limit_and_shows_where_it_hangs(short_dir: Path) -> None:
    with served(short_dir, "--start", "5") as server:
        told = refused(server, HANG)
        assert told["error"] == "refused: not ready within its start limit"
        assert any('app.py", line 3' in line for line in told["log"])  # type: ignore[attr-defined]


def test_code_that_never_becomes_ready_is_refused_with_the_check_that_fails(short_dir: Path) -> None:
    with served(short_dir, "--start", "10") as server:
        told = refused(server, NEVER_READY)
        assert "database" in str(told["error"])


async def test_refused_reloads_under_load_lose_nothing(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        async with Steady(server.port) as load:
            for bad in ("import no_such_thing", "1/0", "import os; os.kill(os.getpid(), 11)"):
                server.write(bad)
                assert (await asyncio.to_thread(server.reload))[0] == 422
        assert load.lost() == []


def test_a_second_reload_at_once_is_busy(short_dir: Path) -> None:
    with served(short_dir) as server:
        server.write("import time\ntime.sleep(1.5)\n" + APP)
        server.signal(signal.SIGHUP)
        until(lambda: server.status()["coming"] == 2, "the reload has begun")
        status, told = server.reload()
        assert (status, told["error"]) == (409, "generation 2 is being started")
        until(lambda: server.status()["generation"] == 2, "the first reload is done")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_signals_reload(short_dir: Path, number: int) -> None:
    with served(short_dir) as server:
        server.signal(number)
        until(lambda: server.status()["generation"] == 2, "the reload is done")
        assert server.get("/")[0] == 200


def test_other_methods_are_answered_with_the_one_that_is_allowed(short_dir: Path) -> None:
    with served(short_dir) as server:
        status, headers, _ = server.ask("/reload")
        assert (status, headers["allow"]) == (405, "POST")
        assert server.ask("/metrics", "POST")[0] == 405
        assert server.ask("/debug/stacks")[0] == 404
        assert server.status()["generation"] == 1


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gapless", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_reload_verb(short_dir: Path) -> None:
    with served(short_dir) as server:
        done = run(short_dir, "reload", "--admin", f"unix:{server.admin}", "--json")
        assert json.loads(done.stdout)["generation"] == 2
        server.write("1/0")
        done = run(short_dir, "reload", "--admin", server.admin)
        assert done.returncode == 7
        assert "ZeroDivisionError" in done.stderr
        assert "→" in done.stderr


def test_the_reload_verb_without_a_server_says_so(short_dir: Path) -> None:
    done = run(short_dir, "reload")
    assert done.returncode == 9
    assert "no server listens on .gapless/serve.sock" in done.stderr

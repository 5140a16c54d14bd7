"""What may go wrong with a reload, each time under load and with the lost requests counted: bad code, two at once, a
stop in the middle, no time, no processor. (Killed processes: `test_serve_steps`, `test_serve_chaos`. Want of disk space
and of descriptors: `test_serve_wants`.)"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.serve_kit import APP, Server, Steady, request, response, served, session, until

NEW = APP.replace('VERSION = "1"', 'VERSION = "2"')
WARM_UP_S = 3.0
STALL_S = 1.5
"""No answer may take as long as the shortest of the starts here; the machine may be busy with other things, too."""

BAD = {
    "at import": ("import no_such_thing\n", "could not be imported"),
    "at start": (
        APP.replace("message = await receive()", "await receive()\n            raise RuntimeError('no licence')", 1),
        "no licence",
    ),
    "by a signal": ("import os\nos.kill(os.getpid(), 11)\n", "SIGSEGV"),
    "hangs": ("import time\ntime.sleep(600)\n", "not ready within its start limit"),
    "never ready": (
        APP + "\nfrom gapless import Service\napp = Service('x', app)\n@app.check\ndef disk():\n    return False\n",
        "disk",
    ),
}


async def reloads(server: Server, app: str) -> tuple[int, dict[str, object]]:
    server.write(app)
    return await asyncio.to_thread(server.reload)


async def test_bad_code_is_refused_and_slow_code_waited_for_without_a_lost_or_slow_request(short_dir: Path) -> None:
    with served(short_dir, "--start", "5") as server:
        workers = server.workers()
        async with Steady(server.port, rate=100.0) as load:
            for name, (app, reason) in BAD.items():
                status, told = await reloads(server, app)
                assert status == 422, name
                assert reason in str(told), name
                assert server.workers() == workers, name
            began = time.monotonic()
            assert (await reloads(server, f"import time\ntime.sleep({WARM_UP_S})\n{NEW}"))[0] == 200
            assert time.monotonic() - began >= WARM_UP_S
        assert load.lost() == []
        assert load.summary.answered > 300
        assert load.summary.max_s < STALL_S
        assert server.get("/")[2].startswith(b"2 ")
        until(lambda: server.others() == sorted(server.workers()), "nothing is left of those that were refused")


async def test_of_two_reloads_at_once_the_second_is_busy(short_dir: Path) -> None:
    with served(short_dir) as server:
        server.write(f"import time\ntime.sleep({WARM_UP_S})\n{NEW}")
        command = [sys.executable, "-m", "gapless", "reload", "--admin", server.admin]
        async with Steady(server.port) as load:
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
                await asyncio.to_thread(until, lambda: server.status()["coming"] == 2, "the first has begun")
                second = await asyncio.to_thread(
                    subprocess.run, command, capture_output=True, text=True, check=False, timeout=60
                )
                assert second.returncode == 8
                assert "generation 2 is being started" in second.stderr
                assert await asyncio.to_thread(first.wait, 60) == 0
        assert load.lost() == []
        assert server.status()["generation"] == 2


async def test_a_stop_in_the_middle_of_a_reload_answers_all_that_was_accepted(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2") as server:
        server.write(f"import time\ntime.sleep(30)\n{NEW}")
        async with Steady(server.port, "/sleep/0.05", connections=32) as load:
            server.signal(signal.SIGHUP)
            await asyncio.to_thread(until, lambda: server.status()["coming"] == 2, "the reload has begun")
            stopped_at = time.time()
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0
        assert session(server.pid) == []
        lost = [record for record in load.records if record.cause]
        assert {record.cause for record in lost} == {"refused"}  # by then nobody listens
        assert all(record.due_at > stopped_at for record in lost)
        assert load.summary.answered > 30


async def test_a_request_that_is_longer_than_the_drain_is_cut_and_named_and_no_other(short_dir: Path) -> None:
    with served(short_dir, "--drain", "2") as server, server.connect() as long, server.connect() as short:
        (old,) = server.workers()
        long.sendall(b"GET /sleep/600 HTTP/1.1\r\nhost: x\r\n\r\n")
        short.sendall(b"GET /sleep/1.5 HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: server.metric("gapless_requests_in_flight") == 2, "both are under way")
        async with Steady(server.port) as load:
            assert (await asyncio.to_thread(server.reload))[0] == 200
            assert (await asyncio.to_thread(response, short))[2] == b"1 %d" % old
            await asyncio.to_thread(until, lambda: server.others() == server.workers() != [old], "the old one has gone")
        assert long.recv(1) == b""
        server.says("over the drain limit: GET /sleep/600, for ")
        assert load.lost() == []
        assert server.status()["restarts"] == 0


BURN = APP.replace(
    'elif path == "block":', 'elif path == "burn":\n        end = time.thread_time() + float(argument)\n'
    '        while time.thread_time() < end:\n            pass\n    elif path == "block":'
)  # fmt: skip


class Burners:
    """Clients in closed loops, so many that every worker computes all the time."""

    def __init__(self, server: Server, count: int) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._burn) for _ in range(count)]

    @contextmanager
    def burning(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _burn(self) -> None:
        with self._server.connect() as sock:
            while not self._stop.is_set():
                try:
                    assert request(sock, "/burn/0.01")[0] == 200
                    self.answered += 1
                except (OSError, AssertionError) as error:
                    self.lost.append(repr(error))
                    return


async def test_a_reload_while_all_workers_compute_all_the_time_loses_nothing(short_dir: Path) -> None:
    with served(short_dir, "--workers", "2", app=BURN) as server:
        burners = Burners(server, 8)
        with burners.burning():
            async with Steady(server.port, rate=20.0, connections=8) as load:
                for _ in range(2):
                    status, told = await asyncio.to_thread(server.reload)
                    assert status == 200, told
        assert burners.lost == []
        assert load.lost() == []
        assert burners.answered > 50
        assert server.status()["restarts"] == 0

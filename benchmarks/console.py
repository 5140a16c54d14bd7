"""How soon the console shows something: a page's first data and a change's push, as a stream's reader gets them, and
what it costs when somebody looks and when nobody does. Of a whole system behind a real Envoy.

    .venv/bin/python benchmarks/console.py

Targets (operations.md): first data within 1.5 s, a push within 200 ms in the quiet case.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.e2e.kit import System, free_port, until

FIRST_LIMIT_S, PUSH_LIMIT_S = 1.5, 0.2
PAGES = ("/", "/rollouts/web", "/incidents", "/topology", "/instances", "/objectives")
QUIET_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=15)
    times = parser.parse_args().times
    directory = Path(tempfile.mkdtemp(prefix="g-"))
    system = System(directory)
    port = next(port for port in iter(free_port, None) if port != system.port)
    text = system.file.read_text().replace("hold: 500ms", "hold: 900s").replace("patience: 60s", "patience: 1h")
    system.file.write_text(f'console: {{listen: "127.0.0.1:{port}"}}\n{text}')
    try:
        process = system.start_up()
        until(system.ready, "ready", system.output)
        system.deploy("v2", "", "--detach")
        time.sleep(3)
        with system.load(rate=40):
            return _measure(system, port, process.pid, times)
    finally:
        system.down()
        shutil.rmtree(directory, ignore_errors=True)


def _measure(system: System, port: int, pid: int, times: int) -> int:
    good = True
    for page in PAGES:
        whole = [_timed(lambda page=page: _get(port, page)) for _ in range(times)]
        first = [_first(port, page) for _ in range(times)]
        print(f"{page:<16} page {_told(whole)}   first data of its stream {_told(first)}")
        good &= max(whole) < FIRST_LIMIT_S and max(first) < FIRST_LIMIT_S
    pushes = [_push(system, port, "pause" if n % 2 == 0 else "resume") for n in range(times)]
    print(f"a pause or resume, from the act to the stream: {_told(pushes)}")
    good &= statistics.median(pushes) < PUSH_LIMIT_S
    idle = _cpu(pid, QUIET_S)
    streams = [Stream(port, "/") for _ in range(10)]
    looked = _cpu(pid, QUIET_S)
    for stream in streams:
        stream.close()
    print(f"processor time of the control plane: {idle:.1%} when nobody looks, {looked:.1%} when ten look at the fleet")
    print("within the targets" if good else "NOT within the targets")
    return 0 if good else 1


class Stream:
    """Reads events in a thread, with the moment of each."""

    def __init__(self, port: int, page: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._connection.request("GET", "/stream" + page.rstrip("/"))
        self._answer = self._connection.getresponse()
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self._name = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while line := self._answer.readline().decode():
                if line.startswith("event: "):
                    self._name = line[7:].strip()
                elif line.startswith("data: "):
                    self.events.append((time.monotonic(), self._name, json.loads(line[6:])))
        except (OSError, ValueError, AttributeError):
            return  # closed while it was read

    def patch_with(self, text: str, after: int = 0) -> float:
        """When a patch came whose state of the rollout says so."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for at, name, data in self.events[after:]:
                if name == "patch" and text in data["regions"].get("head", ""):
                    return at
            time.sleep(0.001)
        raise AssertionError(f"no patch with {text!r}")

    def close(self) -> None:
        sock = self._connection.sock
        if sock is not None:
            sock.close()
        self._thread.join(2)


def _first(port: int, page: str) -> float:
    began = time.monotonic()
    stream = Stream(port, page)
    while not any(name == "patch" for _, name, _ in stream.events):
        time.sleep(0.001)
    took = next(at for at, name, _ in stream.events if name == "patch") - began
    stream.close()
    return took


def _push(system: System, port: int, verb: str) -> float:
    token = _get(port, "/").split('name="gapless-act" content="')[1].split('"')[0]
    stream = Stream(port, "/rollouts/web")
    while len(stream.events) < 2:
        time.sleep(0.001)
    seen, began = len(stream.events), time.monotonic()
    asked = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"origin": f"http://127.0.0.1:{port}", "x-gapless-act": token, "content-type": "application/json"}
    asked.request("POST", f"/acts/{verb}", json.dumps({"service": "web", "why": "to be timed"}), headers)
    answer = asked.getresponse()
    assert answer.status == 200, answer.read()
    took = stream.patch_with("Resume" if verb == "pause" else "Pause", seen) - began
    stream.close()
    return took


def _get(port: int, page: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", page)
    return connection.getresponse().read().decode()


def _timed(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _cpu(pid: int, seconds: float) -> float:
    """The share of one processor that a process took meanwhile."""
    before = _ticks(pid)
    time.sleep(seconds)
    return (_ticks(pid) - before) / os.sysconf("SC_CLK_TCK") / seconds


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _told(seconds: list[float]) -> str:
    median, worst = statistics.median(seconds) * 1000, max(seconds) * 1000
    return f"{median:6.0f} ms ({worst:.0f} at most)"


if __name__ == "__main__":
    sys.exit(main())

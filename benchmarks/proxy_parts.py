"""What each thing costs that the gateway asks of Envoy: instructions of Envoy for a request, with and without it.

    apt-get install nginx-light valgrind
    .venv/bin/python benchmarks/proxy_parts.py [--requests 50] [PART...]

Callgrind counts Envoy's own instructions, repeatable to two percent however busy the machine is; what the kernel does
for it is the same for all and not in it. Four connections ask together. The log is sent in batches of 100 entries, as
many as come in a flush at 500 requests/s.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from gapless.core.world import RealWorld
from gapless.gateway.envoy.process import find_binary
from gapless.gateway.envoy.retries import FILTER
from proxy import nginx
from proxy_files import HOST, Json, gapless, least, manager, same_duty

CONNECTIONS = 4
ASKED = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
START_S = 120.0
BATCH_BYTES = 13_000


def _http(file: Json) -> Json:
    return manager(file["static_resources"]["listeners"][0])


def _route(file: Json) -> Json:
    found: Json = _http(file)["route_config"]["virtual_hosts"][0]["routes"][0]
    return found


def _without_filter(file: Json) -> None:
    _http(file)["http_filters"] = [each for each in _http(file)["http_filters"] if each["name"] != FILTER]


def _without_removals(file: Json) -> None:
    for key in ("response_headers_to_remove", "request_headers_to_remove"):
        del _http(file)["route_config"][key]


def _with_counts(file: Json) -> None:
    del _http(file)["http_filters"][-1]["typed_config"]["dynamic_stats"]


PARTS: dict[str, Callable[[Json], object]] = {
    "what may be repeated, by method and key": _without_filter,
    "the client's address": lambda file: _http(file).pop("use_remote_address"),
    "a limit for slow headers": lambda file: _http(file).pop("request_headers_timeout"),
    "headers that are only ours": _without_removals,
    "paths in one form": lambda file: _http(file).pop("normalize_path"),
    "ejecting sick instances": lambda file: file["static_resources"]["clusters"][0].pop("outlier_detection"),
    "the deadline's header": lambda file: _route(file).pop("request_headers_to_add"),
    "retries": lambda file: _route(file)["route"].pop("retry_policy"),
    "Envoy's own counts per status (which we leave out)": _with_counts,
}


class Clients:
    """Connections that stay; a round is one request on each."""

    def __init__(self, port: int) -> None:
        self._sockets = [socket.create_connection((HOST, port), timeout=60) for _ in range(CONNECTIONS)]

    def ask(self, rounds: int) -> None:
        for _ in range(rounds):
            for each in self._sockets:
                each.sendall(ASKED)
            for each in self._sockets:
                _answer(each)


def _answer(connection: socket.socket) -> None:
    got = b""
    while not got.endswith(b"ok"):
        part = connection.recv(65_536)
        if not part:
            raise SystemExit(f"Envoy has closed the connection after {got!r}")
        got += part
    if not got.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"not answered by the upstream: {got!r}")


def instructions(folder: Path, name: str, file: Json, port: int, rounds: int) -> float:
    """Of one request."""
    (folder / f"{name}.json").write_text(json.dumps(file))
    envoy = [str(find_binary(None)), "-c", f"{name}.json", "--concurrency", "1", "--disable-hot-restart"]
    tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={name}.out"]
    process = subprocess.Popen(
        [*tool, *envoy, "--log-level", "error"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        clients = _connected(process, port)
        clients.ask(3)
        _control(process, "--instr=on")
        clients.ask(10)
        _control(process, "--zero")
        clients.ask(rounds)
        _control(process, "--dump")
        return sum(map(_total, folder.glob(f"{name}.out.*"))) / rounds / CONNECTIONS
    finally:
        process.kill()
        process.wait()


def _total(dump: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _connected(process: subprocess.Popen[bytes], port: int) -> Clients:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            return Clients(port)
        except OSError:
            time.sleep(0.2)
    raise SystemExit("Envoy did not start under valgrind")


def _control(process: subprocess.Popen[bytes], what: str) -> None:
    subprocess.run(["callgrind_control", what, str(process.pid)], check=True, capture_output=True)


class _Sink(grpc.GenericRpcHandler):
    """Takes every message of the log, and does nothing with it."""

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


@contextmanager
def sink(path: Path) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[_Sink()])
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


def files(folder: Path, back: int, chosen: list[str]) -> Iterator[tuple[str, Json, int]]:
    world = RealWorld()

    def ours(change: Callable[[Json], object] | None = None, *, log: bool = False) -> tuple[Json, int]:
        port = world.free_port(HOST)
        file = gapless(port, back)
        if log:
            _http(file)["access_log"][0]["typed_config"]["common_config"] |= {
                "buffer_flush_interval": "600s",
                "buffer_size_bytes": BATCH_BYTES,
            }
        else:
            del _http(file)["access_log"]
        if change:
            change(file)
        return file, port

    port, other = world.free_port(HOST), world.free_port(HOST)
    yield "static", least(port, back), port
    yield "static for the same duty", same_duty(other, back, folder / "access.log"), other
    yield "Gapless", *ours(log=True)
    yield "Gapless, no log", *ours()
    for name in chosen or PARTS:
        yield name, *ours(PARTS[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("part", nargs="*", help="all of them unless some are named")
    parser.add_argument("--requests", type=int, default=50, help="on each connection")
    options = parser.parse_args()
    if unknown := [name for name in options.part if name not in PARTS]:
        parser.error(f"no such part: {unknown[0]}; there are: {'; '.join(PARTS)}")
    missing = [name for name in ("nginx", "valgrind") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} not found: apt-get install nginx-light valgrind")
    folder, back = Path(tempfile.mkdtemp(prefix="p-")), RealWorld().free_port(HOST)
    whole = 0.0
    try:
        with nginx(folder, "back", back, back, 'return 200 "ok";'), sink(folder / "xds.sock"):
            for number, (name, file, port) in enumerate(files(folder, back, options.part)):
                counted = instructions(folder, f"f{number}", file, port, options.requests)
                whole = counted if name == "Gapless, no log" else whole
                part = f" {whole - counted:+8,.0f}" if name in PARTS else ""
                print(f"{name:52s} {counted:9,.0f} instructions{part}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

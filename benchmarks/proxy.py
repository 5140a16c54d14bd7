"""What a request costs in the gateway's proxy: Gapless's Envoy beside the same Envoy with a hand-written static file,
and beside nginx, in the same run.

    apt-get install nginx-light wrk
    .venv/bin/python benchmarks/proxy.py [--rounds 15] [--seconds 1] [--json]

One upstream (nginx, `return 200`), one proxy at a time, 32 connections of wrk, the rounds in turn. CPU is what the
proxy's process took for each request, as Linux counts it, so that a busy machine does not blur it as it blurs requests
per second. Each proxy is in a session of its own, because Linux shares the CPU out by session. Where other work keeps
a proxy from running, it wakes for fewer requests at once and a request costs more: microseconds are those of a quiet
machine only, and a share is the median of what each round makes of it.
"Gapless, no log" is without the access log that verdicts come from. "Same duty" is what a team writes by hand for what
Gapless does (`proxy_files`), with the same log to a file. Target: within 5 % of the static file. What each part costs:
`proxy_parts.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from gapless.core.model import Address, Entrance
from gapless.core.world import RealWorld
from gapless.gateway.envoy import EnvoyGateway
from gapless.gateway.envoy import resources as envoy_resources
from gapless.gateway.envoy.listener import listeners
from gapless.gateway.envoy.process import find_binary
from proxy_files import HOST, least, manager, same_duty, table

WORKERS, CONNECTIONS = 1, 32

NGINX = """
daemon off; worker_processes 1; pid {name}.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 100000000; upstream back {{ server 127.0.0.1:{back}; keepalive 64; }}
  server {{ listen 127.0.0.1:{port}; location / {{ {act} }} }} }}
"""
PROXY = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://back;'


@contextmanager
def nginx(folder: Path, name: str, port: int, back: int, act: str) -> Iterator[int]:
    """The pid of the worker."""
    (folder / f"{name}.conf").write_text(NGINX.format(name=name, port=port, back=back, act=act))
    argv = ["nginx", "-p", str(folder), "-c", f"{name}.conf", "-e", "stderr"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield worker_of(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def worker_of(pid: int) -> int:
    import time

    for _ in range(200):
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
        time.sleep(0.02)
    raise SystemExit("nginx did not start")


@contextmanager
def envoy(folder: Path, name: str, file: dict[str, Any]) -> Iterator[int]:
    (folder / f"{name}.json").write_text(json.dumps(file))
    argv = [str(find_binary(None)), "-c", f"{name}.json", "--concurrency", str(WORKERS), "--disable-hot-restart"]
    process = subprocess.Popen([*argv, "--log-level", "error"], cwd=folder, start_new_session=True)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def silent(entrance: Entrance) -> dict[str, Any]:
    """Our listeners without their access log."""
    found = listeners(entrance)
    for each in found.values():
        manager(each).pop("access_log", None)
    return found


@asynccontextmanager
async def ours(folder: Path, port: int, back: int, *, log: bool = True) -> AsyncIterator[int]:
    envoy_resources.listeners = listeners if log else silent
    listen = Entrance(listen=Address(host=HOST, port=port))
    gateway = EnvoyGateway(listen, folder / f"s{port}", RealWorld(), workers=WORKERS)
    await gateway.start()
    try:
        await gateway.apply(table(back))
        yield gateway.pid
    finally:
        await gateway.stop(drain_s=0)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port: int, seconds: float) -> int:
    """Requests that were answered."""
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", f"http://{HOST}:{port}/"]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    said = (await process.communicate())[0].decode()
    found = re.search(r"(\d+) requests in", said)
    if not found or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"the load failed:\n{said}")
    return int(found[1])


async def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    folder, world = Path(tempfile.mkdtemp(prefix="p-")), RealWorld()
    back, *ports = (world.free_port(HOST) for _ in range(7))
    found: dict[str, dict[str, list[float]]] = {}
    try:
        with (
            nginx(folder, "back", back, back, 'return 200 "ok";'),
            nginx(folder, "nginx", ports[0], back, PROXY) as one,
            envoy(folder, "static", least(ports[1], back)) as two,
            envoy(folder, "logged", least(ports[2], back, Path("/dev/null"))) as three,
            envoy(folder, "duty", same_duty(ports[3], back, folder / "access.log")) as four,
        ):
            async with ours(folder, ports[4], back) as five, ours(folder, ports[5], back, log=False) as six:
                proxies = {"nginx": one, "Envoy, static": two, "Envoy, static + file log": three}
                proxies |= {"Envoy, static, same duty": four, "Gapless": five, "Gapless, no log": six}
                await asyncio.sleep(1)
                for n in range(rounds + 1):
                    for (name, pid), port in zip(proxies.items(), ports, strict=True):
                        began = cpu_s(pid)
                        answered = await load(port, seconds if n else 1)
                        if n:  # the first round warms up
                            one_ = found.setdefault(name, {"cpu_us": [], "per_s": []})
                            one_["cpu_us"].append((cpu_s(pid) - began) / answered * 1e6)
                            one_["per_s"].append(answered / seconds)
    finally:
        shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    missing = [name for name in ("nginx", "wrk") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} not found: apt-get install nginx-light wrk")
    load_before = os.getloadavg()[0]
    found = asyncio.run(measure(options.rounds, options.seconds))
    if options.json:
        print(json.dumps({"load": load_before, **found}, indent=1))
        return
    print(f"load average {load_before:.1f}; median of {options.rounds} rounds of {options.seconds:g} s (least … most)")
    least_us = found["Envoy, static"]["cpu_us"]
    for name, one in found.items():
        cpu, per_s = sorted(one["cpu_us"]), sorted(one["per_s"])
        share = statistics.median(us / base for us, base in zip(one["cpu_us"], least_us, strict=True))
        took = f"{statistics.median(cpu):6.1f} µs of CPU ({cpu[0]:.1f} … {cpu[-1]:.1f})"
        rate = f"{statistics.median(per_s):7.0f} requests/s ({per_s[0]:.0f} … {per_s[-1]:.0f})"
        print(f"{name:26s} {took}, {share:4.2f} of the static file's; {rate}")


if __name__ == "__main__":
    main()

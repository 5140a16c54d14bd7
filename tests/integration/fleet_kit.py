"""What the fleet's tests share: a tiny program that speaks HTTP, and a fleet in a directory of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import urllib.request
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gapless.core.model import Address, Instance, Service
from gapless.core.world import RealWorld
from gapless.fleet.local import LocalFleet

PROGRAM = '''\
"""Answers with its pid. Paths: /exit ends it with status 3; /child starts a process that outlives it."""
import os, signal, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        text = str(os.getpid())
        if self.path == "/exit":
            print("last words", flush=True)
            os._exit(3)
        if self.path == "/child":
            text = str(subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL).pid)
        if self.path == "/bare":
            text = str(subprocess.Popen(["sleep", "600"], env={}).pid)
        if self.path == "/env":
            text = "\\n".join(f"{k}={v}" for k, v in sorted(os.environ.items())) + f"\\ncwd={os.getcwd()}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass

if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
'''

SERVICE = Service(name="tiny", command=("python", "tiny.py", "{port}"), ready_path="", drain_s=5.0)


def write_program(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "tiny.py").write_text(PROGRAM)
    return directory


def make_fleet(state: Path) -> LocalFleet:
    return LocalFleet(state, RealWorld(), lambda event: None)


def instance_of(name: str, port: int, service: str = "tiny") -> Instance:
    return Instance(id=name, service=service, release="1", address=Address(host="127.0.0.1", port=port))


METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"
WHEEL_FILE = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(
    directory: Path, name: str, version: str, files: dict[str, str], more: str = "", scripts: str = ""
) -> Path:
    """A wheel made by hand: building one needs packages that an offline machine lacks."""
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": METADATA.format(name=name, version=version, more=more),
        f"{info}/WHEEL": WHEEL_FILE,
        **({f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}\n"} if scripts else {}),
    }
    contents[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    place = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(place, "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
    return place


@asynccontextmanager
async def fleet_in(state: Path) -> AsyncIterator[LocalFleet]:
    """A fleet whose instances end with the test."""
    fleet = make_fleet(state)
    try:
        yield fleet
    finally:
        for one in await fleet.list():
            await fleet.stop(instance_of(one.id, 0), 0.0)
            await fleet.forget(one.id)
        await fleet.close()


async def start(fleet: LocalFleet, source: Path, name: str = "tiny-1", service: Service = SERVICE) -> Instance:
    """Start one and wait until it answers."""
    release = await fleet.snapshot(service, source, "1", {})
    instance = instance_of(name, (await fleet.allocate()).port, service.name)
    await fleet.start(instance, release, service)
    await answers(instance)
    return instance


async def ask(instance: Instance, path: str = "/") -> str:
    """The body of an answer. Raises OSError."""

    def get() -> str:
        with urllib.request.urlopen(f"http://{instance.address}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(get)


async def answers(instance: Instance) -> str:
    for _ in range(600):
        try:
            return await ask(instance)
        except OSError:
            await asyncio.sleep(0.05)
    raise AssertionError(f"{instance.id} never answered")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def until(condition, what: str) -> None:
    for _ in range(1200):
        if condition():
            return
        await asyncio.sleep(0.025)
    raise AssertionError(f"not within 30 s: {what}")


CONTROL = '''\
"""A control plane that only starts instances, says their pids and waits to be killed."""
import asyncio, sys
from pathlib import Path
from tests.integration.fleet_kit import SERVICE, instance_of, make_fleet

async def main(state, source, *names):
    print("begun", flush=True)
    fleet = make_fleet(Path(state))
    release = await fleet.snapshot(SERVICE, Path(source), "1", {})
    instances = [instance_of(name, (await fleet.allocate()).port) for name in names]
    await asyncio.gather(*(fleet.start(instance, release, SERVICE) for instance in instances))
    while not all("listening" in fleet.tail(instance.id) for instance in instances):
        await asyncio.sleep(0.01)
    print(" ".join(str(one.pid) for one in await fleet.list()), flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
'''

ROOT = Path(__file__).parents[2]


async def run_control(*arguments: str) -> asyncio.subprocess.Process:
    """A process of its own, with this checkout on its path. It has begun, and has started nothing yet."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    control = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONTROL, *arguments, stdout=asyncio.subprocess.PIPE, env=env, cwd=ROOT
    )
    assert control.stdout
    assert await control.stdout.readline() == b"begun\n"
    return control


async def pids_of(control: asyncio.subprocess.Process) -> list[int]:
    """Those of its instances, once all of them answer."""
    assert control.stdout
    return [int(pid) for pid in (await control.stdout.readline()).split()]

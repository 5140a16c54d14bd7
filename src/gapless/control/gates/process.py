"""A gate's program: started, listened to, and ended with everything that it has started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gapless.control.gates.scene import MARK, Scene
from gapless.core.errors import GaplessError
from gapless.core.ports import World
from gapless.fleet import process
from gapless.fleet.launch import INHERITED
from gapless.rollout.reports.outcome import OUTPUT_BYTES

KEPT_BYTES = 8 * OUTPUT_BYTES
READ_BYTES = 1 << 16
LAST_WORDS_S = 1.0
"""What was written is read within this; a descendant may keep the pipe open for ever."""


async def run(argv: Sequence[str], scene: Scene, report: Path, world: World) -> tuple[int, str]:
    """Exit status and the end of the output. Cancelled: everything that it has started is killed. Raises GaplessError
    when it cannot be started."""
    pipe = scene.scratch / f"{report.stem}.pipe"
    listener = Listener(pipe)
    await listener.open()
    try:
        child = await world.spawn(argv, env=environment(os.environ, scene, report), cwd=scene.base, output=pipe)
    except OSError as error:
        await listener.close()
        raise GaplessError(f"{argv[0]} cannot be started: {error.strerror}", "Correct the gate's command.") from error
    try:
        status = await child.wait()
        return status, await listener.text()
    finally:
        sweep(scene.mark)
        child.kill(signal.SIGKILL)
        await listener.close()
        await child.wait()


def environment(inherited: Mapping[str, str], scene: Scene, report: Path) -> dict[str, str]:
    """Like an instance's: the terminal of whoever started the control plane does not matter. The interpreter that runs
    this comes first in PATH."""
    taken = {k: v for k, v in inherited.items() if k in INHERITED or k.startswith("LC_")}
    path = ":".join(filter(None, (str(Path(sys.executable).parent), taken.get("PATH", ""))))
    more = {"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**taken, **more, **scene.environment(report)}


def sweep(mark: str) -> int:
    """Kill whatever bears a mark that begins so, with its sessions; returns how many."""
    found = process.marked(f"{MARK}={mark}")
    for stat in found:
        process.kill(stat)
    return len(found)


class Listener:
    """Reads a named pipe and keeps its end: a program that writes for ever fills neither memory nor disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = bytearray()
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._path.unlink(missing_ok=True)
        os.mkfifo(self._path, 0o600)
        source = os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
        # Held until we close it: between two writers there is no end of file.
        self._holder = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        stream = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), source)
        self._reader = asyncio.create_task(self._read(stream, transport), name="gate output")

    async def _read(self, stream: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        try:
            while data := await stream.read(READ_BYTES):
                self._kept += data
                del self._kept[:-KEPT_BYTES]
        finally:
            transport.close()

    async def text(self) -> str:
        """What is kept, once everything was read."""
        self._let_go()
        if self._reader:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._reader), LAST_WORDS_S)
        return self._kept.decode(errors="replace")

    def _let_go(self) -> None:
        if self._holder >= 0:
            os.close(self._holder)
            self._holder = -1

    async def close(self) -> None:
        self._let_go()
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._path.unlink(missing_ok=True)

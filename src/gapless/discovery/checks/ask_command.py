"""The command check: exit status 0 passes, 1 warns, everything else is critical. Only for operators who allow it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

from gapless.core.ports import World
from gapless.discovery.catalog.values import OUTPUT_BYTES, Definition, Status
from gapless.discovery.checks.ask import Result


async def ask_command(definition: Definition, world: World) -> Result:
    """Raises OSError. When it is cancelled the command and its children are killed."""
    with TemporaryDirectory(prefix="gapless-check-") as directory:
        output = Path(directory, "output")
        process = await world.spawn(definition.args, env=os.environ, cwd=Path(directory), output=output)
        try:
            status = await process.wait()
        except BaseException:
            _kill_session(process.pid)
            await process.wait()
            raise
        said = _beginning(output)
    return Result({0: Status.PASSING, 1: Status.WARNING}.get(status, Status.CRITICAL), said or f"exit status {status}")


def _kill_session(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended meanwhile


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(OUTPUT_BYTES).decode(errors="replace")

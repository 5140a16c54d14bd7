"""Asks a binary, before anything is touched, whether it runs and understands its configuration."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

from gapless.core.errors import GaplessError, GatewayMissing
from gapless.core.ports import Process, World
from gapless.gateway.envoy.bootstrap import BOOTSTRAP

LIMIT_S = 20.0
OUTPUT = "validate.log"
SAID_BYTES = 500


async def validate(binary: Path, home: Path, environment: Mapping[str, str], world: World) -> None:
    """Raises GatewayMissing, and GaplessError with its words."""
    output = home / OUTPUT
    argv = [str(binary), "--mode", "validate", "--config-path", BOOTSTRAP, "--log-level", "error"]
    try:
        process = await world.spawn(argv, env=environment, cwd=home, output=output)
        status = await _status_of(process)
        said = output.read_text(errors="replace").strip()
    except OSError as error:
        raise GatewayMissing(f"{binary} cannot be executed: {error.strerror}") from error
    finally:
        output.unlink(missing_ok=True)
    if status != 0:
        raise GaplessError(
            f"{binary} does not take its configuration (exit status {status}): {said[-SAID_BYTES:]}",
            "The Envoy that runs serves on.",
        )


async def _status_of(process: Process) -> int:
    try:
        async with asyncio.timeout(LIMIT_S):
            return await process.wait()
    except TimeoutError:
        process.kill(signal.SIGKILL)
        return await process.wait()

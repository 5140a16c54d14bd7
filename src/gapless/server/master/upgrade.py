"""Gapless itself was replaced on disk: the workers of a new generation are of another build than their master. It has
its successor tried, and leaves in favour of that (`keep`). Whatever is wrong with the successor, it carries on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from gapless import __version__
from gapless.server.generations.roster import busy
from gapless.server.master.keep import HEIR
from gapless.server.master.plain import to_plain

if TYPE_CHECKING:
    from gapless.server.master.master import Master

_log = logging.getLogger("gapless.server")

TRIAL = "--try"
TRIAL_S = 30.0


async def consider(master: Master) -> None:
    """After a reload: leave, if there is a successor of another build that can read what we would leave."""
    if not {child.build for child in master.serving} - {__version__, ""}:
        return
    try:
        build = await _trial({"settings": to_plain(master.settings), "state": to_plain(master.state)})
    except (OSError, TimeoutError, ValueError) as error:
        _log.error("workers are of another version of Gapless now, whose master does not start: %s", error)
        return
    if build != __version__ and not busy(master.state):
        _log.info("the master of Gapless %s leaves in favour of one of %s", __version__, build)
        master.leave()


async def _trial(left: dict[str, Any]) -> str:
    """The successor's build. Raises ValueError with its last line, OSError, TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", HEIR, TRIAL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TRIAL_S):
            out, err = await process.communicate(json.dumps(left).encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise ValueError((err.decode(errors="replace").splitlines() or [f"exit status {process.returncode}"])[-1])
    return out.decode().strip()

"""Notices to a program: JSON on its standard input; exit status 0 means that it has taken it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from gapless.core.model.notice import Channel
from gapless.core.ports import World
from gapless.observe.notice_queue import Attempt, Batch
from gapless.observe.notice_words import as_json

SAID = 200
"""Bytes of its output, the last ones, that people are shown."""
FEED = 'exec "$@" < "$GAPLESS_NOTICE"'
"""A child's standard input is closed (`World.spawn`), so that the shell opens the file for it."""


async def send_command(channel: Channel, batch: Batch, secrets: Mapping[str, str], world: World) -> Attempt:
    """When it is cancelled (the channel's limit has passed) the command and its children are killed."""
    with TemporaryDirectory(prefix="gapless-notice-") as directory:
        output = Path(directory, "output")
        notice = _written(Path(directory, "notice.json"), batch)
        env = {**os.environ, "GAPLESS_NOTICE": str(notice)}
        argv = ["/bin/sh", "-c", FEED, "sh", *channel.command]
        process = await world.spawn(argv, env=env, cwd=Path(secrets["base"]), output=output)
        try:
            status = await process.wait()
        except BaseException:
            _kill_session(process.pid)
            await process.wait()
            raise
        said = _end(output)
    if not status:
        return Attempt(ok=True)
    return Attempt(ok=False, error=f"{channel.command[0]} ended with {status}{f': {said}' if said else ''}")


def _written(path: Path, batch: Batch) -> Path:
    path.write_bytes(msgspec.json.encode(as_json(batch.message, batch.told)))
    return path


def _end(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - SAID, 0))
        return file.read().decode(errors="replace").strip()


def _kill_session(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended meanwhile

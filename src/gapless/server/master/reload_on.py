"""`--reload-on PATH`: looks at files and directories now and then, and reloads when they have changed.

Looking needs no facility that is missing on network file systems, notices atomic replacement and links that are
switched, and cannot overflow.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from gapless.core.errors import Busy, ReloadRefused
from gapless.server.master.change import MISSING, Watched, looked

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.server")

LOOK_S = 0.5
QUIET_S = 1.0
"""A deploy writes many files: the reload begins when none has changed for so long."""
SHARE = 20
"""The part of the time, at most, in which we look: a large tree is looked at more rarely."""
IGNORED = ("__pycache__", "node_modules")
_LEFTOVERS = (".pyc", ".pyo", ".swp", ".tmp", "~")


async def reload_on(paths: Sequence[str], reload: Callable[[], Awaitable[object]], world: World) -> None:
    """Runs until it is cancelled. A version that is refused is not tried again before it changes."""
    watched: Watched | None = None
    while True:
        began = world.now()
        seen = await asyncio.to_thread(version, paths)
        before, (watched, now) = watched, looked(watched, seen, world.now(), QUIET_S)
        if now and before and not await _reloaded(paths, reload):
            watched = watched._replace(tried=before.tried)
        await world.sleep(max(LOOK_S, SHARE * (world.now() - began) if not now else 0.0))


async def _reloaded(paths: Sequence[str], reload: Callable[[], Awaitable[object]]) -> bool:
    """False when it has to be tried again."""
    _log.info("reloading, because %s changed", ", ".join(paths))
    try:
        await reload()
    except Busy as error:
        _log.info("the reload has to wait: %s", error.what)
        return False
    except ReloadRefused:
        return True  # logged where it happened
    return True


def version(paths: Sequence[str]) -> int:
    """A number that changes with any of the files; MISSING when one of the paths is not there."""
    try:
        return hash(tuple(fact for path in paths for fact in _facts(path))) or 1
    except FileNotFoundError:
        return MISSING


def _facts(path: str) -> Iterator[tuple[object, ...]]:
    """Raises FileNotFoundError for the path itself; what vanishes below it meanwhile is simply no longer there."""
    yield (os.path.realpath(path), *_stat(path))
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in IGNORED)
        for name in sorted(files):
            if not name.startswith(".") and not name.endswith(_LEFTOVERS):
                yield from _file(os.path.join(folder, name))


def _file(path: str) -> Iterator[tuple[object, ...]]:
    try:
        yield (path, *_stat(path))
    except FileNotFoundError:
        return


def _stat(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    directory = os.path.isdir(path)  # its own times change with files that we ignore
    return (found.st_dev, found.st_ino) if directory else (found.st_ino, found.st_size, found.st_mtime_ns)

"""Rotation of logs that their writers hold open: copied and truncated, because nobody tells the writers.

They append (O_APPEND), so they go on at the new end. What is written in the microseconds between the end of the copy
and the truncation is lost; the alternatives need a process in between, whose death would lose more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

SIZE_LIMIT = 10 << 20
KEPT = 3
"""Rotated files of an instance: with the present one, 40 MiB at most."""
FORGOTTEN_KEPT = 100
"""Logs of instances that are gone; a service that crashes in circles makes a new one each time."""


def rotated(path: Path, number: int) -> Path:
    """The older file of that number; 1 is the latest."""
    return path.with_name(f"{path.name}.{number}")


def rotate(path: Path, size_limit: int = SIZE_LIMIT, kept: int = KEPT) -> bool:
    """Rotate when the file has grown beyond the limit; says whether it did. Raises OSError."""
    if not path.exists() or path.stat().st_size < size_limit:
        return False
    rotated(path, kept).unlink(missing_ok=True)  # the oldest first: on a full disk it makes the room for the copy
    for number in range(kept - 1, 0, -1):
        if rotated(path, number).exists():
            os.replace(rotated(path, number), rotated(path, number + 1))
    _move_content(path, rotated(path, 1))
    return True


def _move_content(path: Path, target: Path) -> None:
    fresh = target.with_name(f"{target.name}.new")
    try:
        with open(path, "r+b") as source, open(fresh, "wb", buffering=0) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            fcntl.flock(source, fcntl.LOCK_EX)  # whoever follows the log looks before or after, not in between
            os.replace(fresh, target)
            while rest := source.read(1 << 20):  # what was written meanwhile
                copy.write(rest)
            os.ftruncate(source.fileno(), 0)
    finally:
        fresh.unlink(missing_ok=True)


def surplus(logs: Mapping[str, float], known: Collection[str], kept: int = FORGOTTEN_KEPT) -> list[str]:
    """Of instances with the moment of their last line: the forgotten ones whose logs may go, oldest first."""
    forgotten = sorted((at, name) for name, at in logs.items() if name not in known)
    return [name for _, name in forgotten[: max(len(forgotten) - kept, 0)]]

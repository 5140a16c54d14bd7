"""Instances' logs: one file each, which the instances append to themselves, so that nothing is lost while no control
plane lives, and which anybody can read meanwhile."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from pathlib import Path

from gapless.core.ports import World
from gapless.fleet.follow import Line, follow
from gapless.fleet.rotation import KEPT, rotate, rotated, surplus

TAIL_LIMIT = 1 << 20
"""Bytes that `tail` looks at: what is longer is no line for people."""

LASTING = ("envoy", "control")
"""Logs that are of no instance."""

_BLOCK = 1 << 14


class Logs:
    """The logs in a directory, by instance."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, instance: str) -> Path:
        return self._directory / f"{instance}.log"

    def names(self) -> list[str]:
        """The instances that have a log, sorted; also those that are gone."""
        return sorted(path.name.removesuffix(".log") for path in self._directory.glob("*.log"))

    def tail(self, instance: str, lines: int = 20) -> str:
        """The last lines; empty when there is no log."""
        return tail(self.path(instance), lines)

    def follow(
        self, names: Callable[[], Iterable[str]], world: World, since: int | Mapping[str, int] | None = None
    ) -> AsyncIterator[Line]:
        """The lines of these instances in the order of their arrival, for ever. `since`: a byte of the present files
        (of all, or by name), None for their end. `names` is asked again and again; who appears later is read from the
        beginning."""
        return follow(names, self.path, since, world)

    def tend(self, known: Collection[str]) -> None:
        """Rotate what is too long, remove the oldest logs of instances that are not `known`. Raises OSError."""
        names = self.names()
        for name in names:
            rotate(self.path(name))
        for name in surplus({name: self.path(name).stat().st_mtime for name in names}, {*known, *LASTING}):
            for number in range(1, KEPT + 1):
                rotated(self.path(name), number).unlink(missing_ok=True)
            self.path(name).unlink(missing_ok=True)


def tail(path: Path, lines: int) -> str:
    """The last lines, also those just before the latest rotation; empty when there is no log."""
    text = _last(path, lines, TAIL_LIMIT)
    missing = lines - text.count(b"\n")
    if missing > 0:
        text = _last(rotated(path, 1), missing, TAIL_LIMIT) + text
    kept = text.decode(errors="replace").removesuffix("\n").split("\n")
    return "\n".join(kept[-lines:]) if lines > 0 else ""


def _last(path: Path, lines: int, limit: int) -> bytes:
    """The end of the file from where its last `lines` lines begin, read backwards."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        end = os.fstat(handle).st_size
        found = b""
        begin = end
        while begin > 0 and len(found) < limit and found.count(b"\n") <= lines:
            size = min(_BLOCK, begin)
            begin -= size
            found = os.pread(handle, size, begin) + found
    finally:
        os.close(handle)
    cut = found.removesuffix(b"\n").split(b"\n")[-lines:]
    return b"\n".join(cut) + (b"\n" if found.endswith(b"\n") else b"")

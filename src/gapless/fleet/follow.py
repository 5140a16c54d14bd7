"""Reading logs while they are written, across rotation and truncation, several at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gapless.core.ports import World
from gapless.fleet.rotation import KEPT, rotated

LOOK_EVERY_S = 0.2
"""Soon enough for eyes; a look at a file that has not grown costs two calls."""
READ_LIMIT = 1 << 20
"""Bytes taken from one log at a time, so that a chatty one does not keep the others waiting."""
LINE_LIMIT = 1 << 16
"""A longer line is told in pieces."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an instance's log, without its end."""

    instance: str
    text: str

    def __str__(self) -> str:
        return f"{self.instance} | {self.text}"


class Reader:
    """Where one has read to in a log. `since` is a byte of the present file; None means its end."""

    def __init__(self, path: Path, since: int | None) -> None:
        self._path = path
        self._since = since
        self._position = -1
        self._older: list[_Identity] = []
        self._rest = b""

    def read(self) -> list[str]:
        """The lines that have been completed since the last time; none while the log is being rotated."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._split(b"")
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return self._split(self._fresh(handle))
        except BlockingIOError:
            return []
        finally:
            os.close(handle)

    def _fresh(self, handle: int) -> bytes:
        size = os.fstat(handle).st_size
        older = [_identify(rotated(self._path, number)) for number in range(1, KEPT + 1)]
        before = b""
        if self._position < 0:
            self._position = size if self._since is None else self._since
        elif turns := rotations(self._older, older):
            before, self._position = self._unread(turns), 0
        elif size < self._position:  # truncated by somebody else
            self._position = 0
        self._older = older
        present = os.pread(handle, READ_LIMIT, self._position)
        self._position += len(present)
        return before + present

    def _unread(self, turns: int) -> bytes:
        """What had not been read when the log was rotated: the end of one older file, and all of the later ones."""
        first = _read_rest(rotated(self._path, turns), self._position)
        return first + b"".join(_read_rest(rotated(self._path, number), 0) for number in range(turns - 1, 0, -1))

    def _split(self, fresh: bytes) -> list[str]:
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        while len(self._rest) > LINE_LIMIT:
            lines.append(self._rest[:LINE_LIMIT])
            self._rest = self._rest[LINE_LIMIT:]
        return [line.decode(errors="replace").removesuffix("\r") for line in lines]


@dataclass(frozen=True, slots=True)
class _Identity:
    """Tells a file from its successor of the same name, even when the inode is used again."""

    inode: int = 0
    modified_ns: int = 0


def rotations(before: Sequence[_Identity], now: Sequence[_Identity]) -> int:
    """How often a log was rotated between two looks at its older files, latest first; at most as often as they show."""
    if before == now:
        return 0
    shown = len([one for one in now if one.inode])
    return now.index(before[0]) if before[0].inode and before[0] in now else shown


def _identify(path: Path) -> _Identity:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return _Identity()
    return _Identity(found.st_ino, found.st_mtime_ns)


def _read_rest(path: Path, position: int) -> bytes:
    try:
        with open(path, "rb") as older:
            older.seek(position)
            return older.read()
    except FileNotFoundError:
        return b""


async def follow(
    names: Callable[[], Iterable[str]],
    path_of: Callable[[str], Path],
    since: int | Mapping[str, int] | None,
    world: World,
) -> AsyncIterator[Line]:
    """The lines of these instances in the order of their arrival, for ever. `names` is asked at each look; an instance
    that appears later is read from its beginning. `since`: a byte of the present files, for all or by name."""

    def begin(name: str) -> int | None:
        return since.get(name, 0) if isinstance(since, Mapping) else since

    readers = {name: Reader(path_of(name), begin(name)) for name in names()}
    while True:
        for name in names():
            reader = readers.setdefault(name, Reader(path_of(name), 0))
            for text in reader.read():
                yield Line(name, text)
        await world.sleep(LOOK_EVERY_S)

"""What is kept of an instance in a file beside its socket, so that its end is reported even when nobody saw it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gapless.core.codec import decode, encode
from gapless.core.errors import StoreBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The process that was started for an instance; `began` as in `process.Stat`. `app`: has an admin socket.
    `ending`: SIGTERM is about to be sent, or has been."""

    id: str
    pid: int
    began: int
    app: bool
    ending: bool = False


class Records:
    """One file for each instance in `place`."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def _path(self, instance: str) -> Path:
        return self._place / f"{instance}.json"

    def write(self, record: Record) -> None:
        """All or nothing. Raises OSError."""
        path = self._path(record.id)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(encode(record))
        os.replace(fresh, path)

    def read(self) -> list[Record]:
        """A file that does not fit is as good as none: what runs is found by its environment too."""
        return [record for path in sorted(self._place.glob("*.json")) if (record := _read(path))]

    def find(self, instance: str) -> Record | None:
        return _read(self._path(instance))

    def remove(self, instance: str) -> None:
        self._path(instance).unlink(missing_ok=True)


def _read(path: Path) -> Record | None:
    try:
        return decode(path.read_bytes(), Record)
    except (FileNotFoundError, StoreBroken):
        return None

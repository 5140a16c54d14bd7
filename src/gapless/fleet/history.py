"""The lines of many logs in one order of time: parsed, chosen, merged. Pure but for reading files line by line.

A line of ours is a JSON object; Envoy's and other programs' are text. What has no moment of its own (a traceback, a
print) belongs to the line before it.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gapless.fleet.rotation import KEPT, rotated

LEVELS = {"trace": 5, "debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "critical": 50}
ENVOY = re.compile(r"\[(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d+)\]\[\d+\]\[(\w+)\]")
LINE_BYTES = 1 << 20
"""A longer line is read in pieces."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line. `at`: seconds since the epoch; 0: never said. `fields`: empty for plain text."""

    instance: str
    at: float
    level: int
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines are shown."""

    since_at: float = 0.0
    until_at: float = float("inf")
    level: int = 0
    trace: str = ""
    """The id of a trace, or of a request."""
    pattern: re.Pattern[str] | None = None

    def fits(self, entry: Entry) -> bool:
        if not self.since_at <= entry.at <= self.until_at or entry.level < self.level:
            return False
        if self.trace and self.trace not in (entry.fields.get("trace_id"), entry.fields.get("request_id")):
            return False
        return self.pattern is None or bool(self.pattern.search(entry.text))


class Parser:
    """Reads the lines of one log in their order."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._at = 0.0
        self._level = LEVELS["info"]

    def entry(self, text: str) -> Entry:
        """A clock that was set back does not turn the lines of a log around."""
        fields = _fields(text)
        if fields:
            self._at = max(self._at, _moment(str(fields.get("time", ""))))
            self._level = LEVELS.get(str(fields.get("level", "")).lower(), LEVELS["info"])
        elif found := ENVOY.match(text):
            self._at = max(self._at, _moment(f"{found[1]}T{found[2]}+00:00"))
            self._level = LEVELS.get(found[3], LEVELS["info"])
        return Entry(self._instance, self._at, self._level, text, fields)


def _fields(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _moment(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def lines(path: Path, until_byte: int, since_at: float = 0.0) -> Iterator[str]:
    """Of a log and what was rotated away from it, oldest first; files that were last written before `since_at` are left
    out. `until_byte`: of the present file."""
    for number in range(KEPT, 0, -1):
        yield from _read(rotated(path, number), -1, since_at)
    yield from _read(path, until_byte, since_at)


def _read(path: Path, until_byte: int, since_at: float) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            if path.stat().st_mtime < since_at:
                return
            left = until_byte if until_byte >= 0 else path.stat().st_size
            while left > 0 and (line := file.readline(min(LINE_BYTES, left))):
                left -= len(line)
                yield line.decode(errors="replace").rstrip("\r\n")
    except FileNotFoundError:
        return


def merged(logs: Mapping[str, Iterable[str]], wanted: Wanted) -> Iterator[Entry]:
    """Everything that is wanted, by time; of one moment, by name. One line of each log is held."""
    return heapq.merge(*(_entries(name, log, wanted) for name, log in logs.items()), key=_order)


def _entries(name: str, log: Iterable[str], wanted: Wanted) -> Iterator[Entry]:
    parser = Parser(name)
    for text in log:
        entry = parser.entry(text)
        if wanted.fits(entry):
            yield entry


def _order(entry: Entry) -> tuple[float, str]:
    return entry.at, entry.instance

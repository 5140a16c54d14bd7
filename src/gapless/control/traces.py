"""Collects the spans of the gateway and all instances, and keeps them for those who ask: in memory, and in a file for
the next control plane."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gapless.control.gateway import Gateway
from gapless.control.records import Records
from gapless.core.model import Instance, Phase
from gapless.core.ports import Fleet
from gapless.observe.trace.spans import Span
from gapless.observe.trace.store import TraceStore

_log = logging.getLogger("gapless.control")

FILE_BYTES = 8_000_000
"""Of the file; then it becomes the older one of two, so that the disk never holds more than twice as much."""
REMEDY = "the last are kept in memory. Free some space there, or see that it can be written; it goes on by itself"
NAME, OLDER = "spans.jsonl", "spans.old.jsonl"
AT_ONCE = 16
MOST_WAITING = 5_000
"""Spans that wait for room on a full disk; the oldest give way. The file holds about as many."""


class Traces:
    """`step` is one round. What an instance's master has forgotten meanwhile is lost, and never waited for."""

    def __init__(self, records: Records, fleet: Fleet, gateway: Gateway, folder: Path, slow_s: float) -> None:
        self.store = TraceStore(slow_s)
        self._records = records
        self._fleet = fleet
        self._gateway = gateway
        self._folder = folder
        self._after: dict[str, int] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._broken = False
        self._waiting: deque[Span] = deque(maxlen=MOST_WAITING)

    async def load(self) -> None:
        """What an earlier control plane has collected. A file that cannot be read is left alone."""
        for line in await asyncio.to_thread(_lines, self._folder):
            if span := _span(line):
                self.store.add(span)

    async def step(self) -> None:
        asked = [i for i in self._records.instances() if i.pid and i.phase is not Phase.STOPPED]
        told = await asyncio.gather(*(self._ask(instance) for instance in asked))
        self._after = {i.id: self._after[i.id] for i in asked if i.id in self._after}
        spans = [*self._gateway.spans(), *(span for part in told for span in part)]
        for span in spans:
            self.store.add(span)
        self._waiting.extend(spans)
        if self._waiting:
            await asyncio.to_thread(self._write, list(self._waiting))

    async def _ask(self, instance: Instance) -> list[Span]:
        async with self._turns:
            told = await self._fleet.spans(instance, self._after.get(instance.id, 0))
        self._after[instance.id] = int(told.get("last", 0))
        return [span for plain in told.get("spans", ()) if (span := _from_plain(plain))]

    def _write(self, spans: Iterable[Span]) -> None:
        """In a thread. Traces are worth no request, and no warning more than one."""
        path = self._folder / NAME
        try:
            self._folder.mkdir(exist_ok=True)
            if path.exists() and path.stat().st_size >= FILE_BYTES:
                path.replace(self._folder / OLDER)
            append(path, "".join(json.dumps(span.plain(), separators=(",", ":")) + "\n" for span in spans).encode())
        except OSError as error:
            if not self._broken:
                _log.warning("traces cannot be written to %s (%s); %s", path, error.strerror or error, REMEDY)
            self._broken = True
            return
        self._waiting.clear()
        if self._broken:
            _log.warning("traces are written to %s again", path)
        self._broken = False


def append(path: Path, data: bytes) -> None:
    """All of it or nothing: half a line on a full disk would spoil the next one, too. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(size)
            raise


def _lines(folder: Path) -> list[str]:
    found: list[str] = []
    for name in (OLDER, NAME):
        try:
            found += (folder / name).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("older traces cannot be read: %s", error)
    return found


def _span(line: str) -> Span | None:
    """None for a line that was cut when a control plane was killed."""
    try:
        return _from_plain(json.loads(line))
    except ValueError:
        return None


def _from_plain(plain: Any) -> Span | None:
    if not isinstance(plain, Mapping):
        return None
    try:
        return Span.from_plain(plain)
    except TypeError:
        return None  # of another version of Gapless, with other fields

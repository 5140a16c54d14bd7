"""Logs as JSON lines (one per event) on the standard `logging`, never blocking the event loop.

A record is rendered where it is logged, because that is where the request's context is, and written by a thread:
a full pipe or a slow disk delays nobody. When more than `MOST_WAITING` lines (or `MOST_BYTES`) wait, further ones are
dropped and counted, and the count is logged as soon as there is room.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import traceback
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from gapless.core.events import Event, StageEnded
from gapless.observe.redact import Redactor
from gapless.observe.trace.context import present

request_id: ContextVar[str] = ContextVar("gapless_request_id", default="")
"""The present request's `x-request-id`."""
bound: ContextVar[Mapping[str, Any] | None] = ContextVar("gapless_log_fields", default=None)
"""What every line of the present work shall have; see `bind`."""

MOST_WAITING = 10_000
"""Lines in memory while the output stands still."""
MOST_BYTES = 16 << 20
"""Of them, should they be long."""
LINE_LIMIT = 1 << 16
"""Characters of a line. What reads logs has limits, too, and a longer one is a mistake of somebody."""
CUT_TO = 4096
"""Characters that each text of a line that is too long is cut to."""
CLOSE_S = 1.0
"""How long the end of the process waits for an output that takes nothing."""
LONGEST_CLOSE_S = 10.0
"""And for one that takes what waits slowly."""
CLOSE_LOOK_S = 0.1
GATHER_S = 0.005
"""So long a line may wait for others, to be written together."""
BATCH_CHARACTERS = 1 << 17

WORTH_TELLING_S = 0.01
"""Most stages of most services are empty. The metric of their durations has them all."""

_log = logging.getLogger("gapless.stage")
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_FEWEST = len(vars(logging.makeLogRecord({})))
Context = Callable[[dict[str, Any]], None]
"""Puts what it knows of the present work into the line that it is given."""


def bind(**fields: Any) -> None:
    """Put fields into every line from here on, of this request or task, its threads and what it spawns."""
    bound.set({**(bound.get() or {}), **fields})


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed as `extra=`, or put in by filters."""
    known = vars(record)
    if isinstance(record, _Alike) and len(known) == _FEWEST + len(record.details):
        return {key: known[key] for key in record.details}
    return {key: known[key] for key in known if key not in _PLAIN} if len(known) > _FEWEST else {}


class Alike:
    """Lines that differ only in their text and details, such as one for each request. Nobody looks for who logs them,
    in which thread and process: that costs `logging` more than all the rest of a line. Made where they are logged."""

    def __init__(self, logger: logging.Logger, level: int, path: str) -> None:
        self._logger = logger
        self._level = level
        self._same = vars(logging.LogRecord(logger.name, level, path, 0, "", None, None))

    def log(self, at: float, text: str, details: dict[str, Any]) -> None:
        """`at`: seconds since the epoch."""
        if self._logger.isEnabledFor(self._level):
            self._logger.handle(_Alike(self._same, at, text, details))


class _Alike(logging.LogRecord):
    __slots__ = ("details",)

    details: tuple[str, ...]

    def __init__(self, same: Mapping[str, Any], at: float, text: str, details: dict[str, Any]) -> None:
        """Without logging's own."""
        self.details = tuple(details)
        self.__dict__ = own = {**same, **details}
        own["msg"] = text
        own["created"] = at
        own["msecs"] = at % 1.0 * 1000
        own["relativeCreated"] += (at - same["created"]) * 1000


def add_shared(line: dict[str, Any], context: Context) -> None:
    """What the present work is, for every line of it: request, trace, route and user, and what was bound."""
    if request := request_id.get():
        line["request_id"] = request
    if trace := present.get():
        line["trace_id"], line["span_id"] = trace.trace_id, trace.span_id
    context(line)
    if more := bound.get():
        line.update(more)


def nothing(line: dict[str, Any]) -> None:
    """Of processes that serve no requests."""


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, service, release, instance, request_id, trace_id,
    span_id, what `context` tells, what was bound, extras, error. Secrets are left out (`observe.redact`)."""

    def __init__(
        self, service: str, release: str, instance: str, context: Context = nothing, redactor: Redactor | None = None
    ) -> None:
        super().__init__()
        from msgspec.json import Encoder  # now: the first line may have to tell that no descriptor is left

        self._encode = Encoder(enc_hook=str).encode
        who = {"service": service, "release": release, "instance": instance}
        self._who = {key: value for key, value in who.items() if value}
        self._context = context
        self._redactor = redactor or Redactor.from_env()
        self._second, self._shown = -1, ""
        self._milliseconds = tuple(f".{number:03d}+00:00" for number in range(1000))

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._shown = second, datetime.fromtimestamp(second, UTC).isoformat()[:-6]
        at = self._shown + self._milliseconds[int((record.created - second) * 1000)]
        line: dict[str, Any] = {
            "time": at,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redactor.text(record.getMessage()),
            **self._who,
        }
        add_shared(line, self._context)
        if more := extras(record):
            line |= self._redactor.fields(more)
        if record.exc_info:
            error = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            line["error"] = self._redactor.text(error)
        text = self._encode(line).decode()
        return text if len(text) <= LINE_LIMIT else self._cut(line, len(text))

    def _cut(self, line: dict[str, Any], length: int) -> str:
        """With what is long cut, and a mark that says so. Of texts the beginning is kept, of an error the end."""
        short = {key: _shortened(key, value, self._encode) for key, value in line.items()}
        text = self._encode({**short, "cut_from": length}).decode()
        if len(text) <= LINE_LIMIT:
            return text
        few = {key: short[key] for key in ("time", "level", "logger", "message", *self._who) if key in short}
        return self._encode({**few, "cut_from": length}).decode()


def _shortened(key: str, value: Any, encode: Callable[..., bytes]) -> Any:
    if not isinstance(value, str):
        encoded = encode(value)
        return value if len(encoded) <= CUT_TO else f"… ({len(encoded)} bytes, cut)"
    if len(value) <= CUT_TO:
        return value
    mark = f"… ({len(value)} characters, cut)"
    return f"{mark}{value[-CUT_TO:]}" if key == "error" else f"{value[:CUT_TO]}{mark}"


class HumanLines(logging.Formatter):
    """For a terminal: time, level, message, extras as key=value."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self._redactor = redactor or Redactor.from_env()

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = self._redactor.fields({**(bound.get() or {}), **extras(record)})
        pairs = " ".join(f"{key}={value}" for key, value in fields.items())
        request = request_id.get()
        tail = f"  [{request}]" if request else ""
        return super().formatMessage(record) + (f"  {pairs}" if pairs else "") + tail


class Unblocked(logging.Handler):
    """Hands lines to a thread that writes them to a descriptor."""

    def __init__(self, descriptor: int, most_waiting: int = MOST_WAITING, most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._most_waiting = most_waiting
        self._most_bytes = most_bytes
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._put = self._taken = 0
        """Characters: what was put by loggers (one at a time: `logging` locks), and what the thread has taken."""
        self._torn = False
        """The last line was written in part, and nothing must be written behind it."""
        self._whole = 0
        """Lines of the latest write that went out."""
        self._ending = threading.Event()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lines.qsize() >= self._most_waiting or self._put - self._taken >= self._most_bytes:
                self.dropped += 1
                return
            line = self.format(record)
            self._put += len(line)
            self._lines.put(line)
            if self._thread is None:
                self._begin()
        except Exception:  # noqa: BLE001 - logging's own way of reporting a broken log call
            self.handleError(record)

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._write_all, name="gapless-log", daemon=True)
        self._thread.start()

    def _write_all(self) -> None:
        """Lines that come shortly after each other go out together: to wake a thread for each costs more than it."""
        more = True
        while more and (first := self._lines.get()) is not None:
            self._ending.wait(GATHER_S)
            batch, more = self._batch(first)
            try:
                if self.dropped:
                    self._tell_dropped()
                self._write([line.encode(errors="backslashreplace") + b"\n" for line in batch])
            except OSError:
                self.dropped += len(batch) - self._whole  # the reader has gone, or the disk is full: go on without
            self._taken += sum(map(len, batch))
        if self.dropped:
            try:
                self._tell_dropped()
            except OSError:
                return  # nobody is there who could be told

    def _batch(self, first: str) -> tuple[list[str], bool]:
        """What waits, up to a size; False at the end of all."""
        batch, size = [first], len(first)
        while size < BATCH_CHARACTERS and not self._lines.empty():
            if (line := self._lines.get()) is None:
                return batch, False
            batch.append(line)
            size += len(line)
        return batch, True

    def _tell_dropped(self) -> None:
        self._whole = 0
        dropped = self.dropped
        text = f"{dropped} log lines were dropped because the output stood still, was gone, or its disk was full"
        record = logging.LogRecord("gapless.log", logging.WARNING, "", 0, text, None, None)
        self._write([self.format(record).encode(errors="backslashreplace") + b"\n"])
        self.dropped -= dropped
        self._whole = 0

    def _write(self, lines: list[bytes]) -> None:
        """Raises OSError; then `_whole` says how many lines had been written."""
        begin = b"\n" if self._torn else b""
        data = memoryview(begin + b"".join(lines))
        whole, self._whole = len(data), 0
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        finally:
            written = whole - len(data) - len(begin)
            ends = list(accumulate(map(len, lines)))
            self._whole = bisect_right(ends, written)
            self._torn = (written < 0 and self._torn) or (written > 0 and written not in ends)

    def close(self) -> None:
        """Writes what waits, as long as the output takes something within each CLOSE_S. Called by `logging.shutdown`
        when the interpreter ends."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ending.set()
            self._lines.put(None)
            idle_s = total_s = 0.0
            taken = self._taken
            while thread.is_alive() and idle_s < CLOSE_S and total_s < LONGEST_CLOSE_S:
                thread.join(CLOSE_LOOK_S)
                total_s += CLOSE_LOOK_S
                idle_s = idle_s + CLOSE_LOOK_S if self._taken == taken else 0.0
                taken = self._taken
        super().close()


def setup(
    service: str, release: str, instance: str, json: bool, descriptor: int | None = None, context: Context = nothing
) -> Unblocked:
    """Make the root logger write to stderr in this form, instead of whatever it did. Called once by a worker; the
    returned handler's `close` flushes it (the interpreter's end does so by itself). `context` tells more of the present
    work, for every line."""
    handler = Unblocked(sys.stderr.fileno() if descriptor is None else descriptor)
    handler.setFormatter(JsonLines(service, release, instance, context) if json else HumanLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    return handler


def log_stage(event: Event) -> None:
    """A hook: the stages of start and drain, with their durations. Those that took no time are for whoever debugs."""
    if isinstance(event, StageEnded):
        fast = logging.INFO if event.took_s >= WORTH_TELLING_S else logging.DEBUG
        level = fast if event.ok else logging.WARNING
        how = "ended" if event.ok else "failed"
        text = "stage %s %s after %.0f ms" + (": %s" if event.detail else "")
        args: tuple[Any, ...] = (event.name, how, event.took_s * 1000)
        _log.log(level, text, *args, *((event.detail,) if event.detail else ()))

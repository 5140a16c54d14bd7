"""Logs as JSON lines (one per event) on the standard `logging`, never blocking the event loop.

A record is rendered where it is logged, because that is where the request's context is, and written by a thread:
a full pipe or a slow disk delays nobody. When more than `MOST_WAITING` lines wait, further ones are dropped and
counted, and the count is logged as soon as there is room.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from gapless.core.events import Event, StageEnded

request_id: ContextVar[str] = ContextVar("gapless_request_id", default="")
"""The present request's `x-request-id`."""

MOST_WAITING = 10_000
"""Lines in memory while the output stands still: some megabytes at most."""
CLOSE_S = 1.0
"""How long the end of the process waits for the output."""

_log = logging.getLogger("gapless.stage")
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed as `extra=`."""
    return {key: value for key, value in vars(record).items() if key not in _PLAIN}


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, service, release, instance, request_id, extras, error."""

    def __init__(self, service: str, release: str, instance: str) -> None:
        super().__init__()
        who = {"service": service, "release": release, "instance": instance}
        self._who = {key: value for key, value in who.items() if value}

    def format(self, record: logging.LogRecord) -> str:
        import msgspec

        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        line["message"] = record.getMessage()
        line |= self._who
        if request := request_id.get():
            line["request_id"] = request
        line |= extras(record)
        if record.exc_info:
            line["error"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return msgspec.json.encode(line, enc_hook=str).decode()


class HumanLines(logging.Formatter):
    """For a terminal: time, level, message, extras as key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        pairs = " ".join(f"{key}={value}" for key, value in extras(record).items())
        request = request_id.get()
        tail = f"  [{request}]" if request else ""
        return super().formatMessage(record) + (f"  {pairs}" if pairs else "") + tail


class Unblocked(logging.Handler):
    """Hands lines to a thread that writes them to a descriptor."""

    def __init__(self, descriptor: int, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._most_waiting = most_waiting
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lines.qsize() >= self._most_waiting:
                self.dropped += 1
                return
            self._lines.put(self.format(record))
            if self._thread is None:
                self._begin()
        except Exception:  # noqa: BLE001 - logging's own way of reporting a broken log call
            self.handleError(record)

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._write_all, name="gapless-log", daemon=True)
        self._thread.start()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                if self.dropped:
                    dropped, self.dropped = self.dropped, 0
                    self._write(f"{dropped} log lines were dropped because the output stood still")
                self._write(line)
            except OSError:
                self.dropped += 1  # the reader of our log is gone: the service goes on without it

    def _write(self, line: str) -> None:
        data = memoryview(line.encode(errors="backslashreplace") + b"\n")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        """Writes what waits, for at most CLOSE_S. Called by `logging.shutdown` when the interpreter ends."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._lines.put(None)
            thread.join(CLOSE_S)
        super().close()


def setup(service: str, release: str, instance: str, json: bool, descriptor: int | None = None) -> Unblocked:
    """Make the root logger write to stderr in this form, instead of whatever it did. Called once by a worker; the
    returned handler's `close` flushes it (the interpreter's end does so by itself)."""
    handler = Unblocked(sys.stderr.fileno() if descriptor is None else descriptor)
    handler.setFormatter(JsonLines(service, release, instance) if json else HumanLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    return handler


def log_stage(event: Event) -> None:
    """A hook: the stages of start and drain, with their durations."""
    if isinstance(event, StageEnded):
        level = logging.INFO if event.ok else logging.WARNING
        how = "ended" if event.ok else "failed"
        text = "stage %s %s after %.0f ms" + (": %s" if event.detail else "")
        args: tuple[Any, ...] = (event.name, how, event.took_s * 1000)
        _log.log(level, text, *args, *((event.detail,) if event.detail else ()))

"""Standard output and error of an application: where the disk with its log is full, `print` loses a line, and not the
request that it is called in."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import Any

_log = logging.getLogger("gapless.log")

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Output(io.RawIOBase):
    """Writes all of it to a descriptor, or drops what there is no room for. How much that was is logged once there is
    room again."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        self._dropped = 0

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        whole = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._dropped += len(rest)
            return whole
        if whole and (dropped := self._dropped):
            self._dropped = 0
            _log.warning("%d bytes of %s were dropped because its disk was full", dropped, self._name)
        return whole


def forgive() -> None:
    """Let `sys.stdout` and `sys.stderr` be such ones, otherwise as they were."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            setattr(sys, name, _forgiving(stream, name))


def _forgiving(stream: io.TextIOWrapper, name: str) -> io.TextIOWrapper:
    output = Output(stream.fileno(), name)
    unbuffered = isinstance(stream.buffer, io.RawIOBase)
    return io.TextIOWrapper(
        output if unbuffered else io.BufferedWriter(output),  # type: ignore[arg-type]  # as `python -u` does it
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )

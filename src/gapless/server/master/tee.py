"""Reads along what a worker writes while it starts, so that a refusal can show its last lines; passes everything on."""

from __future__ import annotations

import asyncio
import os
from collections import deque

LINES = 40
LINE_CHARACTERS = 400
READ_BYTES = 65_536
_MACHINERY = ("<frozen ", "/gapless/server/worker/", "Timeout (")
"""Frames and headings that say nothing about the application that hangs (faulthandler prints the innermost first)."""


class Tee:
    """A pipe whose content goes on to descriptor `to`: a new one, or one whose `outlet` an earlier master left."""

    def __init__(self, to: int, outlet: int = -1) -> None:
        self._to = to
        self._lines: deque[str] = deque(maxlen=LINES)
        self._rest = b""
        self.outlet, self.inlet = (outlet, -1) if outlet >= 0 else os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.outlet, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.outlet, self._readable)

    def close_inlet(self) -> None:
        """The writing end, once the worker has its own copy. A second time does nothing."""
        if self.inlet >= 0:
            os.close(self.inlet)
            self.inlet = -1

    def lines(self) -> list[str]:
        """The last lines, without what says nothing about the application."""
        lines = [*self._lines, *([self._text(self._rest)] if self._rest else [])]
        return [line for line in lines if not any(word in line for word in _MACHINERY)]

    def close(self) -> None:
        """Take what is still in the pipe, and let go of it. A second time does nothing."""
        self.close_inlet()
        if self.outlet >= 0:
            self._readable()
        self._end()

    def _end(self) -> None:
        if self.outlet >= 0:
            self._loop.remove_reader(self.outlet)
            os.close(self.outlet)
            self.outlet = -1

    def _readable(self) -> None:
        try:
            data = os.read(self.outlet, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._end()
            return
        self._pass_on(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LINE_CHARACTERS:]
        self._lines.extend(self._text(line) for line in whole)

    def _pass_on(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._to, data) :]
        except OSError:
            return  # our own output is closed or full: the worker must not suffer from it

    @staticmethod
    def _text(line: bytes) -> str:
        return line[:LINE_CHARACTERS].decode(errors="replace").rstrip()

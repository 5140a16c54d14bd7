"""Where processor time goes: a sample for every ten milliseconds of it that this process uses (SIGPROF).

At each sample, every thread's own clock tells whether it was the one that ran, so that a thread which only waits is not
blamed, as it is by whoever takes all stacks at fixed times. It costs below 3 %, and nothing while it does not run.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import CodeType, FrameType

from gapless.observe.profile import Frame, Measure, Profile

EVERY_S = 0.01
WORTH_S = 0.0005
"""Of a thread's time since its last sample: less is waking up and going to sleep again."""
DEEPEST = 200
"""Frames of a stack; a runaway recursion has the innermost ones."""
MEASURES = (Measure("samples", "count"), Measure("cpu", "nanoseconds"))

Places = tuple[tuple[CodeType, int], ...]


class Sampler:
    """`start` and `stop` are called on the main thread, where signals arrive."""

    def __init__(self) -> None:
        self._found: dict[Places, list[int]] = {}
        self._clocks: dict[int, tuple[int, float]] = {}
        """By thread: its clock, and what that showed when its time was last noted."""

    def start(self) -> None:
        self._main = threading.main_thread().ident
        self._at, self._began = time.time(), time.monotonic()
        for thread in sys._current_frames():  # noqa: SLF001 - the name it has
            self._used(thread)
        self._before = signal.signal(signal.SIGPROF, self._tick)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def stop(self) -> Profile:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._before)
        samples: dict[tuple[Frame, ...], tuple[int, ...]] = {}
        for places, (count, nanoseconds) in self._found.items():
            stack = tuple(_frame(code, line) for code, line in places)
            known = samples.get(stack, (0, 0))
            samples[stack] = (known[0] + count, known[1] + nanoseconds)
        return Profile(MEASURES, samples, at=self._at, took_s=time.monotonic() - self._began)

    def _tick(self, number: int, interrupted: FrameType | None) -> None:
        for thread, frame in sys._current_frames().items():  # noqa: SLF001 - the name it has
            used_s = self._used(thread)
            if used_s:
                self._note(interrupted if thread == self._main else frame, used_s)

    def _used(self, thread: int) -> float:
        """Seconds that it has run since they were last asked for; 0, and kept for later, when they are few."""
        try:
            clock, before_s = self._clocks.get(thread) or (time.pthread_getcpuclockid(thread), -1.0)
            now_s = time.clock_gettime(clock)
        except OSError:
            return 0.0  # it has just ended
        used_s = now_s - before_s
        if before_s >= 0 and used_s < WORTH_S:
            return 0.0
        self._clocks[thread] = (clock, now_s)
        return used_s if before_s >= 0 else 0.0

    def _note(self, frame: FrameType | None, used_s: float) -> None:
        places: list[tuple[CodeType, int]] = []
        while frame is not None and len(places) < DEEPEST:
            places.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        found = self._found.setdefault(tuple(places), [0, 0])
        found[0] += 1
        found[1] += round(used_s * 1e9)


def _frame(code: CodeType, line: int | None) -> Frame:
    return Frame(code.co_qualname, code.co_filename, line or 0)

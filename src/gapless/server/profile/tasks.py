"""What waits for what: the tasks of the loop with their chains of awaits, and the threads with their stacks."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

from gapless.observe.profile import Frame, Measure, Profile

MEASURES = (Measure("goroutine", "count"),)
"""The name under which pprof's tools know it."""
DEEPEST = 200


def tasks() -> Profile:
    """Of the running loop, and of all threads."""
    found: Counter[tuple[Frame, ...]] = Counter()
    for task in asyncio.all_tasks():
        found[(*_awaits(task.get_coro()), Frame(f"task {task_kind(task)}"))] += 1
    frames = sys._current_frames()  # noqa: SLF001 - the name it has
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        found[(*_stack(frame), Frame(f"thread {thread.name}"))] += 1
    samples = {stack: (count,) for stack, count in found.items()}
    return Profile(MEASURES, samples, at=time.time(), note="the innermost place is where it waits")


def task_kind(task: asyncio.Task[Any]) -> str:
    """Its name; those that nobody has named are one kind."""
    name = task.get_name()
    return "without a name" if name.startswith("Task-") else name


def _awaits(coroutine: Any) -> tuple[Frame, ...]:
    return tuple(_chain(coroutine))[::-1][:DEEPEST]


def _chain(coroutine: Any) -> Iterator[Frame]:
    """From the task's own function to what it finally waits for."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            frame = getattr(coroutine, "ag_frame", None)
        if frame is None:
            return  # something that is no code, as the iterator of a future
        yield Frame(frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno or 0)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _stack(frame: FrameType | None) -> Iterator[Frame]:
    depth = 0
    while frame is not None and depth < DEEPEST:
        yield Frame(frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno)
        frame, depth = frame.f_back, depth + 1

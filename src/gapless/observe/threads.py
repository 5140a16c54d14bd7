"""Threads that know what the work that is given to them belongs to: request, trace, deadline, log fields."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class ContextThreads(ThreadPoolExecutor):
    """`asyncio.to_thread` carries the context by itself; this does so for `loop.run_in_executor` and `submit`."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(copy_context().run, fn, *args, **kwargs)

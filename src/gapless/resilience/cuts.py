"""Who cancelled? A call that an outer timeout cuts says that the other side is slow; one whose client went away says
nothing. Both look alike from within: a CancelledError.

`asyncio.timeout` (and what is built on it: `wait_for` since Python 3.12, anyio's scopes, our deadlines) takes its
cancellation back with `Task.uncancel` when it turns it into a TimeoutError, and the task goes on. A client's
cancellation ends the task. So the answer is known as soon as the task has gone on, one turn of the loop later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

BEATEN = "gapless: another attempt was faster"
"""The message of a cancellation by a hedge: it says nothing about the attempt that it ends."""


def tell_later(error: asyncio.CancelledError, verdict: Callable[[bool], None]) -> None:
    """Call `verdict(timed_out)` once: at once if it is known, or as soon as it shows."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None  # a coroutine that is driven by hand
    if task is None or not task.cancelling() or BEATEN in error.args:
        verdict(False)
    else:
        asyncio.get_running_loop().call_soon(_look, task, task.cancelling(), verdict)


def _look(task: asyncio.Task[Any], level: int, verdict: Callable[[bool], None]) -> None:
    if task.done():
        verdict(not task.cancelled())
    elif task.cancelling() < level:
        verdict(True)
    else:  # it still waits for something on its way out
        task.add_done_callback(lambda done: verdict(not done.cancelled()))

"""No worker outlives its master unnoticed, not even one whose loop is blocked: a thread waits for the channel's end.

It only polls for the hang-up, which a poll reports without being asked, and never reads.
"""

from __future__ import annotations

import os
import select
import threading
import time

MARGIN_S = 3.0
"""A worker that drains within its limit has ended by then."""


class Watch:
    """`loading` until there is an event loop that can drain by itself."""

    def __init__(self) -> None:
        self.loading = True


def watch(channel_fd: int, drain_s: float) -> Watch:
    """Start watching. While loading, the end of the channel ends the process; later it may first drain."""
    state = Watch()
    thread = threading.Thread(target=_watch, args=(channel_fd, drain_s, state), name="gapless-orphan", daemon=True)
    thread.start()
    return state


def _watch(channel_fd: int, drain_s: float, state: Watch) -> None:
    poll = select.poll()
    poll.register(channel_fd, 0)
    while not poll.poll():
        continue
    if not state.loading:
        time.sleep(drain_s + MARGIN_S)
        os.write(2, b"gapless: the master is gone and this worker did not end within its drain limit\n")
    os._exit(1)

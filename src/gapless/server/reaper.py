"""What a process must do that is the first of its container: wait for the orphans that the kernel gives it, or they
stay as zombies. Programs that workers start and leave behind become such orphans.
"""

from __future__ import annotations

import os
from collections.abc import Collection

FIRST_PID = 1


def is_first() -> bool:
    return os.getpid() == FIRST_PID


def reap_strangers(ours: Collection[int]) -> int:
    """Wait for every ended child that is not one of `ours`; how many there were. One of ours that has ended and was not
    waited for hides those behind it: call again when it has been."""
    reaped = 0
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return reaped
        if found is None or found.si_pid in ours:
            return reaped
        os.waitpid(found.si_pid, 0)
        reaped += 1

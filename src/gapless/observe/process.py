"""What a process takes of its machine. Source: proc(5)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gapless.observe.metrics import Meter

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU in seconds since its start, memory that it holds (bytes), open descriptors, threads."""

    cpu_s: float
    memory: int
    descriptors: int
    threads: int


def usage(pid: int | str = "self") -> Usage | None:
    """None when there is no such process, or it is not ours to look into."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS
    return Usage(cpu_s, int(fields[21]) * _PAGE_BYTES, descriptors, int(fields[17]))


class ProcessMetrics:
    """Under the names that dashboards know. Workers of one instance add up."""

    def __init__(self, meter: Meter, labels: tuple[str, ...] = ()) -> None:
        self._cpu = meter.counter("process_cpu_seconds", "Time on processors", labels)
        self._memory = meter.gauge("process_resident_memory_bytes", "Memory held", labels)
        self._descriptors = meter.gauge("process_open_fds", "Open descriptors", labels)
        self._threads = meter.gauge("process_threads", "Threads", labels)

    def read(self, pid: int | str = "self", *labels: str) -> None:
        found = usage(pid)
        if found is None:
            return
        self._cpu.labels(*labels).set(found.cpu_s)
        self._memory.labels(*labels).set(found.memory)
        self._descriptors.labels(*labels).set(found.descriptors)
        self._threads.labels(*labels).set(found.threads)

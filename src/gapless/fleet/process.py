"""Processes of this machine, found and signalled so that a number that was given to another one is never hit.

Instances are recognised by what was put into their environment when they were started (`/proc/PID/environ`), because
that survives whoever started them. Sources: proc(5), pidfd_open(2), setsid(2).
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STATE = "GAPLESS_STATE"
INSTANCE = "GAPLESS_INSTANCE"

_DEAD = frozenset("ZX")

_INFO = struct.Struct("=Q52xi")
"""`struct pidfd_info` of linux/pidfd.h: its mask comes first, its exit_code last."""
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11  # _IOWR(0xFF, 11, struct pidfd_info)
_INFO_EXIT = 1 << 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """A line of /proc/PID/stat. `began` is the start in clock ticks since boot: with the pid it names one process."""

    pid: int
    state: str
    parent: int
    session: int
    began: int

    @property
    def dead(self) -> bool:
        return self.state in _DEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A living process and the instance that its environment names ("" for none of ours)."""

    stat: Stat
    instance: str

    @property
    def leads(self) -> bool:
        return self.stat.pid == self.stat.session


def parse_stat(line: str) -> Stat:
    """The command's name may hold anything, blanks and brackets too: fields are counted from the last bracket."""
    pid, _, rest = line.partition(" (")
    fields = rest.rpartition(")")[2].split()
    return Stat(pid=int(pid), state=fields[0], parent=int(fields[1]), session=int(fields[3]), began=int(fields[19]))


def parse_mark(environ: bytes, state: str) -> str:
    """The instance that an environment names, if it belongs to this state directory."""
    fields = environ.split(b"\0")
    if f"{STATE}={state}".encode() not in fields:
        return ""
    prefix = f"{INSTANCE}=".encode()
    return next((os.fsdecode(f[len(prefix) :]) for f in fields if f.startswith(prefix)), "")


def read_stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_mark(pid: int, state: str) -> str:
    """Empty too for processes that are not ours to look into."""
    try:
        return parse_mark(Path(f"/proc/{pid}/environ").read_bytes(), state)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def scan(state: str) -> list[Found]:
    """Every living process but this one. Some milliseconds for some hundred processes."""
    return [found for pid in _pids() if pid != os.getpid() and (found := _find(pid, state))]


def marked(prefix: str) -> list[Stat]:
    """Every living process but this one whose environment has a field that begins so, as `NAME=value` does."""
    mark = os.fsencode(prefix)
    found = (read_stat(pid) for pid in _pids() if pid != os.getpid() and _bears(pid, mark))
    return [stat for stat in found if stat and not stat.dead]


def _bears(pid: int, mark: bytes) -> bool:
    try:
        return any(f.startswith(mark) for f in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _find(pid: int, state: str) -> Found | None:
    stat = read_stat(pid)
    return Found(stat=stat, instance=read_mark(pid, state)) if stat and not stat.dead else None


def leaders(found: Iterable[Found]) -> Mapping[str, Stat]:
    """The process that each instance is known by: the oldest session leader that bears its name (a daemon that it
    started leads a session too, but is younger)."""
    oldest: dict[str, Stat] = {}
    for one in sorted(found, key=lambda f: (f.stat.began, f.stat.pid)):
        if one.instance and one.leads:
            oldest.setdefault(one.instance, one.stat)
    return oldest


def members(found: Iterable[Found], instance: str, session: int) -> list[Stat]:
    """Everything that belongs to an instance: what bears its name, and what shares a session with that, even when it
    cleared its environment. `session`: the leader's, while it is certain that its number was not given away; else 0."""
    everyone = {one.stat.pid: one for one in found}
    named = {pid for pid, one in everyone.items() if one.instance == instance}
    sessions = {everyone[pid].stat.session for pid in named} | ({session} - {0})
    own = {s for s in sessions if s not in everyone or s in named or s == session}  # not the terminal of a person
    return [f.stat for pid, f in everyone.items() if pid in named or (f.stat.session in own and not f.instance)]


def hold(stat: Stat) -> int | None:
    """A pidfd of exactly this process; None when it has ended."""
    try:
        handle = os.pidfd_open(stat.pid)
    except ProcessLookupError:
        return None
    now = read_stat(stat.pid)
    if now and now.began == stat.began and not now.dead:
        return handle
    os.close(handle)
    return None


def send(handle: int, number: int) -> None:
    """Signal the process that a pidfd holds; one that has ended does not hear it."""
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return


def exit_status(handle: int) -> int | None:
    """How the ended process that a pidfd holds ended, though it is no child of ours; None when the kernel does not tell
    (before Linux 6.15). Raises BlockingIOError until its parent has taken note."""
    info = bytearray(_INFO.size)
    _INFO.pack_into(info, 0, _INFO_EXIT, 0)
    try:
        fcntl.ioctl(handle, _GET_INFO, info)
    except OSError:
        return None
    mask, status = _INFO.unpack(info)
    if not mask & _INFO_EXIT:
        raise BlockingIOError
    return os.waitstatus_to_exitcode(status)


def kill(stat: Stat) -> None:
    """SIGKILL exactly this process."""
    handle = hold(stat)
    if handle is None:
        return
    try:
        send(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def kill_children(pid: int) -> None:
    """SIGKILL a child of this process with its whole process group. A number that is no such child is left alone."""
    stat = read_stat(pid)
    if stat and stat.parent == os.getpid() and stat.session == pid:
        os.killpg(pid, signal.SIGKILL)


def describe_status(status: int) -> str:
    """How a child ended, for people: a negative status is the signal that killed it."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"

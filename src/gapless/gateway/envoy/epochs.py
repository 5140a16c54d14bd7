"""Which Envoys run here. Each of Envoy's hot restarts is an epoch of its own: the new process takes the listeners over
from the one before, which finishes what it has and ends.

All that a later control plane must know of a process is in its own command line and environment, where no crash can
separate it from the process; a file with its pid only tells where to look.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

MARK = "GAPLESS_GATEWAY"
"""In Envoy's environment, with the state directory: how a recorded pid is known to be ours and not reused."""
PRINT = "GAPLESS_GATEWAY_PRINT"
"""In its environment: of the settings that it was started for (`fingerprint`)."""

_STARTED = 19
"""Place of `starttime` in /proc/PID/stat, counted from the state."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 where Envoy's hot restart keeps its locks
LARGEST_BASE_ID = 200_000_000
"""Envoy multiplies it by ten and keeps it in 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """A running Envoy. `base_id` 0: it was started without hot restart."""

    pid: int
    number: int = 0
    base_id: int = 0
    binary: str = ""
    print: str = ""
    started: int = 0
    """Clock ticks after the machine's boot (proc(5))."""


def pid_file(base_id: int, number: int) -> str:
    return f"envoy-{base_id}-{number}.pid"


def running(home: Path, state: Path) -> list[Epoch]:
    """The Envoys of this state directory that live, the one that was started last at the end."""
    pids = (_pid(path) for path in home.glob("envoy*.pid"))
    found = (_read(pid, state) for pid in pids if pid)
    return sorted((epoch for epoch in found if epoch), key=lambda epoch: (epoch.started, epoch.number))


def _pid(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _read(pid: int, state: Path) -> Epoch | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if stat[0] in "ZX" or f"{MARK}={state}".encode() not in environment:
        return None
    prefix = f"{PRINT}=".encode()
    told = next((entry[len(prefix) :].decode() for entry in environment if entry.startswith(prefix)), "")
    return epoch_of(pid, command, told, int(stat[_STARTED]))


def epoch_of(pid: int, command: Sequence[str], told: str = "", started: int = 0) -> Epoch:
    """What a command line says."""
    number, base_id = _option(command, "--restart-epoch"), _option(command, "--base-id")
    return Epoch(pid=pid, number=number, base_id=base_id, binary=command[0], print=told, started=started)


def _option(command: Sequence[str], name: str) -> int:
    try:
        return int(command[command.index(name) + 1])
    except (ValueError, IndexError):
        return 0


def fingerprint(binary: Path, told: object) -> str:
    """Of a binary's content, by size and time, and of all that it is started with."""
    found = os.stat(binary)
    content = msgspec.json.encode([str(binary), found.st_size, found.st_mtime_ns, told])
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def hot_restart_possible() -> bool:
    return os.access(SHARED_MEMORY, os.W_OK)


def forget_base(base_id: int) -> None:
    """Envoy leaves its shared memory, 104 bytes, behind."""
    (SHARED_MEMORY / f"envoy_shared_memory_{base_id * 10}").unlink(missing_ok=True)


def client_connections(pid: int, ports: Iterable[int]) -> int:
    """Established connections to our listeners that the process holds."""
    try:
        held = {os.readlink(entry) for entry in _descriptors(pid)}
    except OSError:
        return 0
    wanted = frozenset(ports)
    tables = (_text(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6"))
    return sum(established(table, wanted, lambda inode: f"socket:[{inode}]" in held) for table in tables)


def _descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return [f"{folder}/{name}" for name in os.listdir(folder) if os.path.islink(f"{folder}/{name}")]


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


_ESTABLISHED = "01"


def established(table: str, ports: frozenset[int], mine: Callable[[str], bool]) -> int:
    """How many rows of /proc/net/tcp (proc(5)) are established connections to a local port, by an inode that is
    `mine`."""
    rows = (line.split() for line in table.splitlines()[1:])
    found = (row for row in rows if len(row) > 9 and row[3] == _ESTABLISHED)
    return sum(int(row[1].rpartition(":")[2], 16) in ports and mine(row[9]) for row in found)

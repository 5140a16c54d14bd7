"""Finds out who listens on a TCP port of this machine, for an error message that helps."""

from __future__ import annotations

import os
from collections.abc import Iterator

_LISTENING = "0A"


def holder_of(port: int) -> str:
    """`name (pid N)` of a process that listens on the port; empty when it cannot be seen (another user's)."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not wanted:
        return ""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if wanted.intersection(_open(pid)):
            return f"{_name(pid)} (pid {pid})"
    return ""


def _inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        with open(table) as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _open(pid: str) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        for fd in os.listdir(folder):
            yield os.readlink(f"{folder}/{fd}")
    except OSError:
        return  # not ours to look into, or gone meanwhile


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().split(b"\0") if word]
    except OSError:
        return "a process that has just ended"
    if any("gapless/server/" in word or word.startswith("gapless.server.") for word in words):
        return "gapless serve"  # its own words, interpreter and paths, tell nobody anything
    shown = " ".join([os.path.basename(words[0]), *words[1:]]) if words else "a process"
    return shown if len(shown) <= 60 else shown[:59] + "…"

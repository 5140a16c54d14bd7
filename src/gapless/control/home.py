"""Where a system lives: the one machine and state directory whose processes and gateway its records are about.

Instances are processes of one machine. A control plane elsewhere can neither find nor end them, and would start all
of them a second time. So a store that several machines reach remembers the home of the system that it holds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gapless.control.leader import HOME, LEADER, Candidate
from gapless.core import codec
from gapless.core.errors import ConfigError, StoreLocked
from gapless.core.ports import Store

MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Of a system, by name. `machine` is `machine()` there, `state` the real path of the state directory."""

    system: str
    machine: str
    state: str

    def __str__(self) -> str:
        return f"{self.machine.partition('/')[0]}:{self.state}"


def machine() -> str:
    """This machine's name and, where it has one, its id: names alone are given twice."""
    try:
        number = MACHINE_ID.read_text().strip()
    except OSError:  # a container: its name is all there is
        number = ""
    return f"{os.uname().nodename}/{number}"


def home_of(system: str, state: Path) -> Home:
    return Home(system=system, machine=machine(), state=os.path.realpath(state))


async def known_home(store: Store) -> Home | None:
    """Where the system of this store lives, once it has been started."""
    entry = await store.get(HOME)
    return codec.decode(entry.value, Home) if entry else None


async def check_home(store: Store, mine: Home, *, move: bool) -> None:
    """Raises ConfigError when the store holds another system, or one that lives elsewhere and is not to be moved here;
    StoreLocked when it is to be, and still has a leader."""
    home = await known_home(store)
    if home is None or home == mine:
        return
    if home.system != mine.system:
        raise ConfigError(
            f"this store holds the system {home.system!r} of {home}, not {mine.system!r}",
            "Give each system a prefix of its own: etcd://HOST:2379/PREFIX/.",
        )
    if not move:
        raise ConfigError(
            f"{mine.system} lives at {home}; this is {mine}, which cannot reach the processes there",
            "Run `gapless up` there, or give this one a store prefix of its own. If that place is gone for good: "
            "`gapless up --move`.",
        )
    entry = await store.get(LEADER)
    if entry:
        leader = codec.decode(entry.value, Candidate)
        raise StoreLocked(
            f"{mine.system} cannot be moved from {home}: {leader} leads there",
            "Stop it first. If it has just died, its lease lapses within seconds.",
        )


async def claim_home(store: Store, mine: Home, *, move: bool) -> None:
    """Make it ours, as the leader. Raises ConfigError as `check_home` does, NotLeader."""
    entry = await store.get(HOME)
    found = codec.decode(entry.value, Home) if entry else None
    if found == mine:
        return
    if found is not None and not (move and found.system == mine.system):
        raise ConfigError(
            f"{found.system} of {found} has come into this store first", "Give each system a store prefix of its own."
        )
    await store.put(HOME, codec.encode(mine), expect=entry.revision if entry else 0)

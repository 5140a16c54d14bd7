"""What systemd passes to a service that it starts: sockets (sd_listen_fds(3)). They are descriptors 3, 4 … and the
environment tells how many, how they are called, and for which process they are meant.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple

from gapless.core.errors import ConfigError

FIRST_FD = 3
"""SD_LISTEN_FDS_START."""
UNNAMED = "unknown"
"""What systemd calls a socket whose unit names none."""
MOST = 1000
STORED = "gapless"
"""What we call the listeners that we give systemd to keep over a restart."""
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
BIND = "127.0.0.1:8000"
"""When nothing is asked for and nothing passed."""


class Passed(NamedTuple):
    fd: int
    name: str
    """`FileDescriptorName=` of its socket unit, else the unit's name."""


def take(environ: MutableMapping[str, str], pid: int) -> tuple[Passed, ...]:
    """What is meant for this process, which its children shall neither be told nor inherit. Raises ConfigError."""
    found = passed(environ, pid)
    for variable in VARIABLES:
        environ.pop(variable, None)
    for each in found:
        try:
            os.set_inheritable(each.fd, False)
        except OSError as error:
            raise ConfigError(f"LISTEN_FDS promises descriptor {each.fd}, which is not open", _REMEDY) from error
    return found


def passed(environ: Mapping[str, str], pid: int) -> tuple[Passed, ...]:
    """Nothing, when it is meant for another process. Raises ConfigError."""
    if environ.get("LISTEN_PID") != str(pid):
        return ()
    count = environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or int(count) > MOST:
        raise ConfigError(f"LISTEN_FDS is {count!r}, not a number of sockets", _REMEDY)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    named = len(names) == int(count)
    return tuple(Passed(FIRST_FD + at, (named and names[at]) or UNNAMED) for at in range(int(count)))


def apart(found: Sequence[Passed]) -> tuple[list[int], list[Passed]]:
    """The descriptors that an earlier server of this unit had stored, and what a socket unit passes."""
    return [each.fd for each in found if each.name == STORED], [each for each in found if each.name != STORED]


def binds_of(binds: Sequence[str], found: Sequence[Passed]) -> tuple[str, ...]:
    """`fd://NAME` as the numbers of what was passed under that name. Nothing asked for: all that was passed, else the
    default. Raises ConfigError."""
    if not binds:
        return tuple(f"fd://{each.fd}" for each in found) or (BIND,)
    return tuple(number for bind in binds for number in _numbers(bind, found))


def _numbers(bind: str, found: Sequence[Passed]) -> list[str]:
    name = bind.removeprefix("fd://")
    if name == bind or name.isdecimal():
        return [bind]
    numbers = [f"fd://{each.fd}" for each in found if each.name == name]
    if not numbers:
        known = ", ".join(sorted({each.name for each in found}))
        there = f"systemd passed {known}" if known else "systemd passed none"
        raise ConfigError(f"--bind {bind!r}: there is no socket of that name; {there}", _REMEDY)
    return numbers


_REMEDY = "Look at FileDescriptorName= in the .socket unit, and at Sockets= in the .service unit."

"""How a worker's state comes to the one that takes its place: in a file in memory, whose descriptor travels with the
messages. The master passes it on (`master.carries`).

    master → old  ASK state      old → master  TELL state (descriptor)
    master → new  STATE (descriptor)      new → master  TAKEN
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gapless.server.handover import handover

if TYPE_CHECKING:
    from gapless.service.carry import Carrying


def written(content: bytes) -> int:
    """The descriptor of a file in memory that holds this. Raises OSError."""
    fd = os.memfd_create("gapless-state", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> bytes:
    """What such a file holds; the descriptor is closed. Raises OSError."""
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb") as file:
        return file.read()


async def give(channel: handover.Channel, carrying: Carrying, number: int, limit_s: float) -> None:
    """The old worker's part."""
    content, left = await carrying.dump(limit_s)
    fds = [written(content)] if left.done else []
    channel.send(handover.Tell(number, "state", left._asdict()), fds, give=True)


async def take(channel: handover.Channel, carrying: Carrying, fd: int) -> None:
    """The new worker's part."""
    left = await carrying.load(read(fd))
    channel.send(handover.Taken(left.done, left.behind))

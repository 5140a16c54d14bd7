"""When a connection on which nothing happens is to be acted upon, and how. Pure."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple

from gapless.server.http.client_limits import SEND_S

ROUND_TRIP_S = 3.0
"""How long a client that does not answer our PING may send requests after the first GOAWAY."""
SILENCE_S = 30.0
"""A client from which nothing has come for so long while it waits for responses is asked whether it is still there."""
PONG_S = 15.0
LINGER_S = 1.0
"""After the last frame the client gets the time to read it and to close; a close of ours on top of bytes on their way
to us would be a reset, which may take our last frames with it."""
NEVER = float("inf")
FLUSH_S = 5.0
"""What a close then gets to write what is left."""


class Phase(IntEnum):
    OPEN = 0
    TOLD = 1
    """The first GOAWAY is sent: requests that cross it are still answered."""
    LAST = 2
    """The second one: what was begun is finished."""
    CLOSING = 3


class Act(Enum):
    RETIRE = "retire"
    SAY_LAST = "say which request is the last"
    ASK = "ask whether the client is there"
    TOO_SLOW = "end a client whose header block does not end"
    DROP_STALLED = "drop the response that nobody takes"
    DROP_LATE = "answer for the apps that wait in vain for bodies"
    CLOSE = "close"
    ABORT = "abort"


class Times(NamedTuple):
    """What is known, in the loop's seconds; 0 for what is not the case."""

    phase: Phase
    phase_at: float
    keep_alive_s: float
    head_s: float
    """For a header block, or the connection's first frame, to arrive in full; 0: for ever."""
    busy: bool
    quiet_at: float
    """The last byte from the client, or the end of a response."""
    heard_at: float
    pinged_at: float = 0.0
    head_at: float = 0.0
    """Since when a header block has been arriving."""
    paused_at: float = 0.0
    """Since when the client takes too little."""
    send_s: float = SEND_S
    """How long either may last; 0: for ever."""
    stalled_at: float = 0.0
    """Since when a response waits for its turn."""
    body_at: float = NEVER
    """When the first of the bodies that apps wait for will be late."""
    closed: bool = False
    """The transport is closing."""


def due(times: Times) -> tuple[float, Act]:
    """What is to be done next, and when."""
    if times.phase is Phase.CLOSING:
        if times.closed:
            return times.phase_at + LINGER_S + FLUSH_S, Act.ABORT
        return times.phase_at + LINGER_S, Act.CLOSE
    return min([_of_phase(times), *_of_slowness(times)], key=lambda one: one[0])


def _of_phase(times: Times) -> tuple[float, Act]:
    if times.phase is Phase.TOLD:
        return times.phase_at + ROUND_TRIP_S, Act.SAY_LAST
    if not times.busy:
        return times.quiet_at + times.keep_alive_s, Act.RETIRE
    if times.pinged_at > times.heard_at:
        return times.pinged_at + PONG_S, Act.ABORT
    return times.heard_at + SILENCE_S, Act.ASK


def _of_slowness(times: Times) -> list[tuple[float, Act]]:
    limits = (
        (times.head_at if times.head_s else 0.0, times.head_s, Act.TOO_SLOW),
        (times.body_at, 0.0, Act.DROP_LATE),
        (times.paused_at if times.send_s else 0.0, times.send_s, Act.ABORT),
        (times.stalled_at if times.send_s else 0.0, times.send_s, Act.DROP_STALLED),
    )
    return [(since + limit_s, act) for since, limit_s, act in limits if since]

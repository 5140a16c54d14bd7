"""What a worker says, as an event for the deciders."""

from __future__ import annotations

from gapless.server.generations import generation as g
from gapless.server.handover import handover


def event_of(key: int, message: handover.Message) -> g.Event | None:
    """None for what is no news to them."""
    match message:
        case handover.Prepared():
            return g.Prepared(key, message.carries)
        case handover.Serving():
            return g.Serving(key)
        case handover.Stopped():
            return g.Stopped(key)
        case handover.Tired(why):
            return g.Tired(key, why)
        case handover.Leaving():
            return g.Left(key)
        case handover.Beat() as beat:
            return g.Beat(key, beat.unready, beat.requests, beat.memory)
    return None
